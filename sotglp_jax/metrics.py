"""Training metrics through clu: TensorBoard, JSON lines, and plain lines where no terminal is."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from clu import metric_writers

from sotglp_jax import workdir
from sotglp_jax.devices import hosts


class JsonLines(metric_writers.LoggingWriter):
    """One JSON object a line: {"step": ..., name: value, ...}.

    Args:
      path: file to append to.
      start: lines of later steps are dropped; a resumed run writes them again.
    """

    def __init__(self, path: Path, start: int):
        super().__init__()
        kept = []
        if path.exists():
            lines = path.read_text("utf-8").splitlines(keepends=True)
            kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= start]
        workdir.write(path, "".join(kept))
        self._file = path.open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line."""
        self._file.write(json.dumps({"step": step} | dict(scalars)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def create_writer(folder: Path, start: int) -> metric_writers.MetricWriter:
    """A writer to all three places; of several processes the first alone writes.

    Args:
      folder: the run folder; gets metrics.jsonl and events for TensorBoard.
      start: the step that training starts from.
    """
    if not hosts.first():
        return metric_writers.MultiWriter([])
    writers = [
        JsonLines(folder / "metrics.jsonl", start),
        metric_writers.SummaryWriter(str(folder)),
    ]
    if not sys.stderr.isatty():  # a terminal has the progress bar
        writers.append(metric_writers.LoggingWriter())
    return metric_writers.MultiWriter(writers)
