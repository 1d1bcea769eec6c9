"""Memory of a training step, known before it runs."""

import os

import jax
import jax.numpy as jnp

from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import Method

SHARE = 0.4  # of a device's memory, for what the text tower keeps for its backward pass


def limit() -> int:
    """Bytes that a device of this process has; processors share those of the machine."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["bytes_limit"]
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return machine // jax.local_device_count()


def classes_per_pass(method: Method, length: int, classes: int, devices: int = 1) -> int:
    """Classes that the text tower takes at once so that its memory stays within `SHARE`.

    Args:
      method: what runs through the tower.
      length: tokens of the longest class name.
      classes: their number.
      devices: that share the classes.
    """
    text = method.towers.text
    # Queries, keys and values; the stream before and after attention; the MLP's hidden units.
    kept = 3 * text.width * jnp.dtype(text.dtype).itemsize + 4 * (2 * text.width + text.mlp_width)
    of_class = method.text_tokens(length) * text.layers * kept
    passes = -(-classes * of_class // devices // int(SHARE * limit()))
    return -(-classes // devices // max(passes, 1))


def parts(program: jax.stages.Compiled) -> dict[str, int]:
    """Bytes on each device while a compiled step runs, by what they hold."""
    sizes = program.memory_analysis()
    return {
        "arguments": sizes.argument_size_in_bytes,
        "results": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
    }


def needed(program: jax.stages.Compiled) -> int:
    """Bytes on each device while a compiled step runs, its arguments included."""
    return sum(parts(program).values())


def describe(program: jax.stages.Compiled) -> str:
    """What a compiled training step needs.

    Raises:
      InputError: a device does not have as much.
    """
    asked, there = needed(program), limit()
    if asked > there:
        raise InputError(
            f"a training step needs {asked / 1e9:.1f} GB on each device and there are "
            f"{there / 1e9:.1f} GB: set fewer classes per pass with --config.text.chunk, more "
            "devices with --config.mesh, or --config.precision=bf16."
        )
    return f"a training step needs {asked / 1e9:.2f} of {there / 1e9:.1f} GB on each device"
