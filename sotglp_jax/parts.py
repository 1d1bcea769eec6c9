"""Where in a training a stage of it is."""

import dataclasses
from collections.abc import Sequence

from sotglp_jax.methods.contract import Stage


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the stages of a training, and where in it that is.

    Attributes:
      stage: the stage.
      index: its number.
      first: batches of images before it.
      steps: batches of images in a pass over them.
    """

    stage: Stage
    index: int
    first: int
    steps: int

    def epoch(self, step):
        """The epoch within the stage that comes after so many batches of the training."""
        return (step - self.first) // self._epoch

    def progress(self, step):
        """The epoch and, as a fraction, how much of it is over."""
        return self.epoch(step) + (step - self.first) % self._epoch / self._epoch

    def turn(self, step: int) -> str:
        """The parameter whose turn comes after so many batches; "" without turns."""
        turns = self.stage.turns
        return turns[(step - self.first) // self.steps % len(turns)] if turns else ""

    @property
    def _epoch(self) -> int:
        """Batches of images in an epoch."""
        return self.steps * max(1, len(self.stage.turns))

    @property
    def end(self) -> int:
        """Batches of images up to the end of the stage."""
        return self.first + self.stage.passes * self.steps


def parts(stages: Sequence[Stage], steps_per_epoch: int) -> list[Part]:
    """The stages, one after the other."""
    found, first = [], 0
    for index, stage in enumerate(stages):
        found.append(Part(stage, index, first, steps_per_epoch))
        first = found[-1].end
    return found


def part_of(found: Sequence[Part], step: int) -> Part:
    """The stage that the batch of this number, counted from 1, belongs to."""
    return next(part for part in found if step <= part.end)
