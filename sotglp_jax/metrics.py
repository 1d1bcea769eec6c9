"""Training metrics: for TensorBoard, as JSON lines, and as short lines where no terminal is."""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from sotglp_jax import workdir
from sotglp_jax.devices import hosts

QUIET = 10.0  # seconds between two lines of a log


class JsonLines:
    """One JSON object a line: {"step": ..., name: value, ...}.

    Args:
      path: file to append to.
      start: lines of later steps are dropped; a resumed run writes them again.
    """

    def __init__(self, path: Path, start: int):
        kept = []
        if path.exists():
            lines = path.read_text("utf-8").splitlines(keepends=True)
            kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= start]
        workdir.write(path, "".join(kept))
        self._file = path.open("a")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line."""
        self._file.write(json.dumps({"step": step} | dict(values)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Events:
    """TensorBoard's file of events.

    Its own writer would write through TensorFlow wherever that is installed, after seconds of
    importing it.

    Args:
      folder: gets the file.
      start: TensorBoard forgets what an earlier file has of later steps.
    """

    def __init__(self, folder: Path, start: int):
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((folder / name).open("ab"))
        self._add(file_version="brain.Event:2")
        self._add(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a scalar for each value."""
        scalars = [Summary.Value(tag=k, simple_value=x) for k, x in values.items()]
        self._add(step=step, summary=Summary(value=scalars))

    def _add(self, **content) -> None:
        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._records.flush()

    def close(self) -> None:
        """Closes the file."""
        self._records.close()


class Log:
    """A short line on stderr now and then, for the first and the last step in any case.

    Args:
      steps: the last one.
      accuracy: which of the metrics is shown as such.
    """

    def __init__(self, steps: int, accuracy: str):
        self._steps, self._accuracy, self._next = steps, accuracy, 0.0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a line, unless there was one just now."""
        if step < self._steps and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + QUIET
        parts = [f"step {step} of {self._steps}", f"loss {values['loss']:.3f}"]
        if self._accuracy in values:
            parts.append(f"accuracy {values[self._accuracy]:.0%}")
        minutes, seconds = divmod(round(values["remaining_seconds"]), 60)
        parts += [f"{values['images_per_second']:.0f} images/s", f"{minutes}:{seconds:02} left"]
        print(", ".join(parts), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is open."""


def create_writers(folder: Path, start: int, log: Log) -> list[JsonLines | Events | Log]:
    """The places that metrics are written to; of several processes the first alone writes.

    Args:
      folder: the run folder; gets metrics.jsonl and events for TensorBoard.
      start: the step that training starts from.
      log: written to where no terminal shows the progress bar.
    """
    if not hosts.first():
        return []
    writers = [JsonLines(folder / "metrics.jsonl", start), Events(folder, start)]
    return writers if sys.stderr.isatty() else [*writers, log]
