"""Checkpoints of a run, by orbax: what is trained, and nothing of CLIP.

The step is the position of the input and of the randomness too: batches are a function of seed
and position, and a step's key is the seed's folded with the step.
"""

import contextlib
from collections.abc import Iterator

import orbax.checkpoint as ocp

from sotglp_jax.errors import InputError
from sotglp_jax.paths import AnyPath, absolute, in_bucket, reason


class Checkpoints:
    """The checkpoints below a run folder, written in the background.

    Args:
      workdir: the run folder.
      create: make the folder where there is none.

    Raises:
      InputError: there is none, and it is not to be made.
    """

    def __init__(self, workdir: AnyPath, create: bool = False):
        folder = absolute(workdir / "checkpoints")
        if not create and not folder.is_dir():
            raise _none_in(folder)
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=2),
            item_names=("state", "meta"),
        )

    @property
    def latest(self) -> int | None:
        """Step of the last whole checkpoint; one cut off in the middle of writing is not whole."""
        return self._manager.latest_step()

    def save(self, step: int, state: dict, meta: dict) -> None:
        """Starts to write; a step that is there already is left alone.

        Raises:
          InputError: a bucket takes this checkpoint, or the one before, no more.
        """
        if step == self.latest:
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        with _told(self._manager.directory):
            self._manager.save(step, args=args)

    def restore(self, like: dict) -> tuple[dict, dict]:
        """State and meta of the last checkpoint.

        Args:
          like: a state of `ShapeDtypeStruct`s with the shardings to restore to.

        Raises:
          InputError: there is no checkpoint, or it cannot be read.
        """
        if self.latest is None:
            raise _none_in(self._manager.directory)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(self.latest, args=args)
        except (ValueError, OSError, KeyError) as error:  # tensorstore's and orbax's own kinds
            step = self._manager.directory / str(self.latest)
            raise InputError(
                f"checkpoint {step} cannot be read ({str(error).splitlines()[0][:200]}): if it is "
                "damaged, remove that folder to go on from the one before."
            ) from None
        return restored.state, restored.meta

    def remove(self, step: int) -> None:
        """Removes the checkpoint of a step, if there is one.

        Raises:
          InputError: a bucket takes no changes any more.
        """
        with _told(self._manager.directory):
            self._manager.wait_until_finished()
            if step in self._manager.all_steps():
                self._manager.delete(step)

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          InputError: a bucket takes it no more.
        """
        with _told(self._manager.directory):
            self._manager.wait_until_finished()
        self._manager.close()


@contextlib.contextmanager
def _told(folder: AnyPath) -> Iterator[None]:
    """Tells in a sentence what keeps a bucket from being written."""
    try:
        yield
    except Exception as error:  # tensorstore's, gcsfs's, aiohttp's and google.auth's own kinds
        if not in_bucket(folder):
            raise
        why = reason(error).partition(" [tensorstore_spec")[0]
        raise InputError(
            f"{folder} cannot be written ({why}): when it can be again, the same command goes on "
            "from the last whole checkpoint."
        ) from None


def _none_in(folder: AnyPath) -> InputError:
    return InputError(
        f"{folder} holds no finished checkpoint: train first, with the same --config and --workdir."
    )
