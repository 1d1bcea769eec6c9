"""What is installed, seen and cached here, what is wrong, and what to do: sotglp doctor

Exit code 1 where something is wrong.
"""

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from absl import flags, logging
from packaging.requirements import Requirement

from sotglp_jax.errors import mend, run_command

PACKAGE = "sotglp_jax"
PATIENCE = 3.0  # seconds that the hub has for an answer
ROOM = 2e9  # bytes on disk: CLIP ViT-L/14, which is the largest download of the field's

Found = Iterator[tuple[str, str]]  # a line, and what is wrong about it, or ""


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="sotglp doctor", description=__doc__)
    flags.FLAGS(argv[:1])
    return parser.parse_args(argv[1:])


def main(_: argparse.Namespace) -> None:
    """Prints what is found, and at the end what is wrong."""
    logging.set_verbosity(logging.WARNING)
    wrong = []
    for look in (packages, devices, caches, hub):
        for line, fault in look():
            print(line, flush=True)
            wrong += [fault] if fault else []
    print("\n".join(f"wrong: {fault}" for fault in wrong) or "nothing is wrong")
    sys.exit(1 if wrong else 0)


def packages() -> Found:
    """Yields this package, what it requires, and its extras."""
    python = f"Python {platform.python_version()} in {sys.prefix}"
    if not (version := _version(PACKAGE)):
        yield python, f"{PACKAGE} is not installed: run `pip install -e .` in its clone."
        return
    yield f"{PACKAGE} {version} in {Path(__file__).parent}, {python}", ""
    required = [x for x in _required(PACKAGE) if _asked(x, "")]
    unfit = [x for x in required if not _fits(x)]
    fault = f"run `pip install {' '.join(repr(str(x)) for x in unfit)}`." if unfit else ""
    yield ", ".join(f"{x.name} {_version(x.name) or 'is missing'}" for x in required), fault
    extras = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra")
    there = [extra for extra in extras if _complete(PACKAGE, extra)]
    rest = ", ".join(extra for extra in extras if extra not in there)
    yield f"extras here: {', '.join(there) or 'none'}; `pip install '{PACKAGE}[…]'`: {rest}", ""


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _fits(asked: Requirement) -> bool:
    version = _version(asked.name)
    return version != "" and asked.specifier.contains(version, prereleases=True)


def _required(name: str) -> list[Requirement]:
    return [Requirement(text) for text in importlib.metadata.requires(name) or ()]


def _asked(requirement: Requirement, extra: str) -> bool:
    return not requirement.marker or requirement.marker.evaluate({"extra": extra})


def _complete(name: str, extra: str) -> bool:
    """Whether everything is installed that an extra of an installed package adds to it."""
    added = [x for x in _required(name) if _asked(x, extra) and not _asked(x, "")]
    return all(
        _version(x.name) and all(_complete(x.name, further) for further in x.extras) for x in added
    )


def devices() -> Found:
    """Yields the devices that JAX sees."""
    import jax

    try:
        seen = jax.devices()
    except (AssertionError, RuntimeError) as error:
        yield "devices: none", mend(error) or str(error).splitlines()[0]
        return
    kinds = sorted({x.device_kind for x in seen})
    yield f"devices: {len(seen)} x {', '.join(kinds)} ({seen[0].platform})", ""
    if seen[0].platform == "cpu" and not os.environ.get("JAX_PLATFORMS"):
        if Path("/proc/driver/nvidia/version").exists():
            yield "an NVIDIA driver", f"JAX sees no GPU: run `pip install '{PACKAGE}[cuda12]'`."
        if Path("/dev/accel0").exists():
            yield "a TPU", f"JAX sees no TPU: run `pip install '{PACKAGE}[tpu]'`."


def caches() -> Found:
    """Yields what is kept on disk, with its size, and how much room is left."""
    import jax
    from huggingface_hub import constants

    from sotglp_jax import cache
    from sotglp_jax.devices import programs

    programs.keep()
    for what, folder in (
        ("compiled programs", Path(jax.config.jax_compilation_cache_dir)),
        ("image features", cache.base()),
        ("the hub's files", Path(constants.HF_HUB_CACHE)),
    ):
        size = sum(x.lstat().st_size for x in folder.rglob("*") if not x.is_dir())
        there = folder if folder.exists() else next(x for x in folder.parents if x.exists())
        writable = os.access(there, os.W_OK)
        fault = "" if writable else f"{there} cannot be written: set XDG_CACHE_HOME and HF_HOME."
        yield f"{what}: {size / 1e6:.0f} MB in {folder}", fault
    free = shutil.disk_usage(there).free
    yield f"disk: {free / 1e9:.0f} GB free", "" if free > ROOM else f"make room below {there}."


def hub() -> Found:
    """Yields whether the hub answers, from which CLIP's weights are downloaded."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        yield "hub: not asked, since HF_HUB_OFFLINE is set", ""
        return
    began = time.monotonic()
    request = urllib.request.Request(f"{constants.ENDPOINT}/api/models?limit=1")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        yield (
            f"hub: {constants.ENDPOINT} does not answer ({reason})",
            "CLIP's weights cannot be downloaded: set HTTPS_PROXY or HF_ENDPOINT, or copy them "
            "here for clip=PATH; the tiny CLIP needs no hub.",
        )
        return
    yield f"hub: {constants.ENDPOINT} answers in {time.monotonic() - began:.1f} s", ""


if __name__ == "__main__":
    run_command(main, flags_parser=parse)
