"""Memory of a training step, known before it runs."""

import os

import jax
import jax.numpy as jnp

from sotglp_jax.clip.packing import pack
from sotglp_jax.clip.text import TextTransformer
from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.errors import InputError

SHARE = 0.4  # of a device's memory, for what the text tower keeps for its backward pass


def limit() -> int:
    """Bytes that a device of this process has; processors share those of the machine."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["bytes_limit"]
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return machine // jax.local_device_count()


def classes_per_pass(
    text: TextTransformer, tokens: Tokens, trainable: dict, devices: int = 1
) -> int:
    """Classes that the text tower takes at once so that its memory stays within `SHARE`.

    Args:
      text: the tower.
      tokens: the class names.
      trainable: the prompts, see `SotGlp.init`.
      devices: that share the classes.
    """
    n_global, m, _ = trainable["global_prompts"].shape
    n_local, classes = trainable["local_prompts"].shape[-3], pack(tokens)
    rows = sum(
        name.eot.size * (n_global * name.ids.shape[-1] + n_local * (m + name.ids.shape[-1]))
        for name in classes.names
    )
    # Queries, keys and values; the stream before and after attention; the MLP's hidden units.
    kept = 3 * text.width * jnp.dtype(text.dtype).itemsize + 4 * (2 * text.width + text.mlp_width)
    passes = -(-rows * text.layers * kept // devices // int(SHARE * limit()))
    return -(-len(tokens.eot) // devices // max(passes, 1))


def needed(program: jax.stages.Compiled) -> int:
    """Bytes on each device while a compiled step runs, its arguments included."""
    sizes = program.memory_analysis()
    made = sizes.temp_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.argument_size_in_bytes + made


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
            "devices along the classes with --config.mesh, or --config.precision=bf16."
        )
    return f"a training step needs {asked / 1e9:.2f} of {there / 1e9:.1f} GB on each device"
