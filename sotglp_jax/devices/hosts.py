"""Several processes, on one machine or many, that train one run together.

Every process runs the same command on the same input and sees the same global arrays; the first
one alone writes and prints. All of them need the run folder: it lies on a disk that they share.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from sotglp_jax.errors import InputError

AUTO = "auto"
# Seconds: a lost process ends the others after the first, one that fails alone after the second.
LIMITS = {"heartbeat_timeout_seconds": 30, "shutdown_timeout_seconds": 60}
T = TypeVar("T")
# Over all loops of this process, which every process goes through in the same order: the sync
# point of jax.distributed is a number that comes once and that no loop may leave out.
_questions = itertools.count(1)


def join(processes: str) -> None:
    """Meets the other processes; comes before anything else that looks at devices.

    Args:
      processes: "auto" where JAX knows the cluster (Slurm, TPU, GKE, Open MPI), else
        "HOST:PORT,COUNT,INDEX": where process 0 listens, how many there are, and which this is.

    Raises:
      InputError: neither form, or no such cluster here.
    """
    if processes == AUTO:
        try:
            jax.distributed.initialize(**LIMITS)
        except ValueError:
            raise InputError(
                "--distributed=auto finds no Slurm, TPU, GKE or MPI around this process: set "
                "--distributed=HOST:PORT,COUNT,INDEX."
            ) from None
    else:
        address, count, index = _parse(processes)
        jax.distributed.initialize(
            address, count, index, cluster_detection_method="deactivate", **LIMITS
        )
    if not first():
        sys.stdout = open(os.devnull, "w")


def together(call: Callable[[], T]) -> T:
    """The result of a call that may raise `InputError`: where one process fails, all do.

    Else the others would wait for one that is gone.
    """
    result, error = None, None
    try:
        result = call()
    except InputError as raised:
        error = raised
    failed = multihost_utils.process_allgather(np.array(error is not None)).ravel()
    if failed.any():
        raise error or InputError(f"process {failed.argmax()} cannot start and says why.")
    return result


def of_first(value: np.ndarray | bool) -> np.ndarray:
    """The first process's value, of the same shape and dtype in all: its files decide."""
    return multihost_utils.broadcast_one_to_all(np.asarray(value))


def first() -> bool:
    """Whether this process writes and speaks for all."""
    return jax.process_index() == 0


def no_bar() -> bool | None:
    """tqdm's `disable`: bars are the first process's, and for terminals."""
    return None if first() else True


class Interruption:
    """Turns the first Ctrl-C or SIGTERM into a request that a loop answers between its steps.

    Of several processes, one that is asked stops all of them after the same step.
    """

    def __enter__(self):
        self._noted, self._several = False, jax.process_count() > 1
        numbers = (signal.SIGINT, signal.SIGTERM)
        # SIGTERM of several processes is jax.distributed's, which tells it to the others.
        numbers = numbers[:1] if self._several else numbers
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether to stop now; all processes ask equally often."""
        if self._several:
            return multihost_utils.reached_preemption_sync_point(next(_questions))
        return self._noted

    def _note(self, number, _frame):
        self._noted = True
        signal.signal(number, self._before[number])
        if self._several:
            signal.raise_signal(signal.SIGTERM)


def _parse(processes: str) -> tuple[str, int, int]:
    address, *numbers = processes.split(",")
    if ":" in address and len(numbers) == 2 and all(n.isdigit() for n in numbers):
        count, index = map(int, numbers)
        if index < count:
            return address, count, index
    raise InputError(
        f"--distributed={processes} is neither auto nor HOST:PORT,COUNT,INDEX: the first of two "
        "processes is --distributed=localhost:1234,2,0."
    )
