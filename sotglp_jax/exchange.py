"""Trained prompts to and from the files of the authors' PyTorch code.

python -m sotglp_jax.exchange out WORKDIR --out=FILE.safetensors
python -m sotglp_jax.exchange in FILE --config=configs/fewshot.py:recipe=official --workdir=WORKDIR
"""

import argparse
import re
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from sotglp_jax import main
from sotglp_jax.errors import InputError, run_command
from sotglp_jax.paths import local, place


def bring_in(path: Path, config: ConfigDict, folder: str) -> None:
    """Makes a run folder of a file, as if the run had been trained to its end.

    Args:
      path: see `official.load`.
      config: of the run.
      folder: the run folder; "" names one.

    Raises:
      InputError: the file cannot be read or does not fit, or the folder holds a run.
    """
    from sotglp_jax import workdir

    with workdir.alone(workdir.of(config, folder)):
        _bring_in(path, config, folder)


def _bring_in(path: Path, config: ConfigDict, folder: str) -> None:
    import jax
    import jax.numpy as jnp

    from sotglp_jax import workdir
    from sotglp_jax.checkpoint import Checkpoints
    from sotglp_jax.devices import sharding
    from sotglp_jax.run import prepare
    from sotglp_jax.state import init_state
    from sotglp_jax.trained import official

    tensors = official.load(path)
    run = prepare(config, folder)
    official.check_known(run.method)
    official.check_clip(tensors, run.clip.params)
    if (run.workdir / "checkpoints").exists():
        raise InputError(f"{run.workdir} holds a run already: choose another --workdir.")
    names = run.names_on(sharding.make_mesh(1), run.method)
    state = init_state(run, run.frozen, names, run.total_steps)
    shapes = {name: x.shape for name, x in state["params"].items()}
    frozen = official.frozen(tensors, run.arch)
    learned = {name: x for name, x in tensors.items() if name not in frozen}
    found = official.from_official(run.method, learned, shapes)
    state["params"] = jax.tree.map(jnp.asarray, found)
    if "average" in state:
        state["average"] = state["params"]
    state["step"] = jnp.full((), run.total_steps, jnp.int32)
    workdir.create(run.workdir, run.settings, run.train.names, run.dataset.class_names)
    checkpoints = Checkpoints(run.workdir, create=True)
    checkpoints.save(run.total_steps, state, {"train_seconds": 0.0})
    checkpoints.close()
    if frozen:
        print(f"left out: {len(frozen)} of the frozen CLIP's tensors")
    if unused := sorted(x for x in learned if re.fullmatch(run.method.torch_unused, x)):
        print(f"left out, since no score depends on them: {', '.join(unused)}")
    print(f"run folder: {run.workdir}, to be evaluated by sotglp_jax.main with the same --config")


def take_out(folder: Path, out: Path) -> None:
    """Writes what a finished run learned to a .safetensors file.

    Raises:
      InputError: no finished run that learned anything, or the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    from sotglp_jax.trained import finished, official

    if out.suffix != ".safetensors":
        raise InputError(f"--out={out} must end in .safetensors.")
    found = finished.load(folder)
    official.check_known(found.run.method)
    try:
        save_file(official.to_official(found.run.method, found.params), out)
    except (SafetensorError, OSError):
        raise InputError(f"{out} cannot be written: choose another --out.") from None
    print(f"prompts: {out}")


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line; what is behind `in FILE` are flags of the main command."""
    parser = argparse.ArgumentParser(
        prog="python -m sotglp_jax.exchange",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("out", help="prompts of a run to a file", allow_abbrev=False)
    out.add_argument("folder", metavar="WORKDIR", type=place)
    out.add_argument("--out", metavar="FILE", type=local, required=True)
    into = commands.add_parser("in", help="a file to a run folder", allow_abbrev=False)
    into.add_argument("file", metavar="FILE", type=local)
    arguments, rest = parser.parse_known_args(argv[1:])
    main.parse([argv[0], *rest])
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Does what the command line says."""
    main.quiet()
    if arguments.command == "out":
        take_out(arguments.folder, arguments.out)
    else:
        config = flags.FLAGS.config
        if config is None or "study" in config:
            raise InputError("--config=FILE must name one run: configs/fewshot.py is a start.")
        bring_in(arguments.file, config, flags.FLAGS.workdir)


if __name__ == "__main__":
    run_command(run, flags_parser=parse)
