"""Compiled programs, kept from one command to the next."""

import os

import jax


def keep() -> None:
    """Keeps them in the user's cache folder, unless JAX was told another place."""
    if not jax.config.jax_compilation_cache_dir:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(cache, "sotglp_jax", "programs")
        jax.config.update("jax_compilation_cache_dir", folder)
