"""Training metrics: for TensorBoard, as JSON lines, and as short lines where no terminal is."""

import io
import json
import os
import socket
import sys
import time
from collections.abc import Mapping

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from sotglp_jax import workdir
from sotglp_jax.devices import hosts
from sotglp_jax.paths import AnyPath, in_bucket

QUIET = 10.0  # seconds between two lines of a log
PAUSE = 30.0  # seconds between two writes of a file that grows in a bucket


class Growing:
    """A file that is written record by record, each at once.

    In a bucket, whose objects do not grow, the whole is written again: at most every `PAUSE`
    seconds, and with `sync` and `close`.

    Args:
      path: of the file.
      content: what it holds.
    """

    def __init__(self, path: AnyPath, content: bytes = b""):
        self._path, self._next = path if in_bucket(path) else None, 0.0
        self._file = io.BytesIO() if self._path else path.open("ab")
        if self._path:
            self._file.write(content)

    def write(self, record: bytes) -> None:
        """Appends a record."""
        self._file.write(record)
        self._file.flush()
        if time.monotonic() > self._next:
            self.sync()

    def flush(self) -> None:
        """Does nothing more."""

    def sync(self) -> None:
        """Makes sure that a bucket has all of it too."""
        if self._path:
            workdir.write(self._path, self._file.getvalue())
            self._next = time.monotonic() + PAUSE

    def close(self) -> None:
        """Closes the file."""
        self.sync()
        self._file.close()


class JsonLines:
    """One JSON object a line: {"step": ..., name: value, ...}.

    Args:
      path: file to append to.
      start: lines of later steps are dropped; a resumed run writes them again.
    """

    def __init__(self, path: AnyPath, start: int):
        kept = []
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [x for x in lines if x.endswith(b"\n") and json.loads(x)["step"] <= start]
        workdir.write(path, b"".join(kept))
        self._file = Growing(path, b"".join(kept))
        self.sync, self.close = self._file.sync, self._file.close

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line."""
        self._file.write(json.dumps({"step": step} | dict(values)).encode() + b"\n")


class Events:
    """TensorBoard's file of events.

    Its own writer would write through TensorFlow wherever that is installed, after seconds of
    importing it.

    Args:
      folder: gets the file.
      start: TensorBoard forgets what an earlier file has of later steps.
    """

    def __init__(self, folder: AnyPath, start: int):
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        file = Growing(folder / name)
        self._records, self.sync, self.close = RecordWriter(file), file.sync, file.close
        self._add(file_version="brain.Event:2")
        self._add(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a scalar for each value."""
        scalars = [Summary.Value(tag=k, simple_value=x) for k, x in values.items()]
        self._add(step=step, summary=Summary(value=scalars))

    def _add(self, **content) -> None:
        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())


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

    def sync(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""


def create_writers(folder: AnyPath, start: int, log: Log) -> list[JsonLines | Events | Log]:
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
