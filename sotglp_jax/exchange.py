"""Trained prompts to and from the files of the authors' PyTorch code.

python -m sotglp_jax.exchange out WORKDIR --out=FILE.safetensors
python -m sotglp_jax.exchange in FILE --config=configs/fewshot.py:recipe=official --workdir=WORKDIR
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from sotglp_jax import main
from sotglp_jax.clip import weights
from sotglp_jax.clip.weights import SAME, TRANSPOSE
from sotglp_jax.errors import InputError, run_command

# Ours -> theirs, and how theirs becomes ours; PyTorch keeps the projection transposed.
NAMES = {
    "global_prompts": ("global_prompt", SAME),
    "local_prompts": ("local_prompts", SAME),
    "local_projection": ("local_proj.linear.weight", TRANSPOSE),
    "log_fusion": ("log_fusion", SAME),  # theirs has none: of method.fusion=learned
}
# Parameters that their model carries from earlier forms and that no score depends on.
UNUSED = r"[AB]|(multi_head_attention_layer|ff_begin|ln1_begin|ln2_begin)\..+"


def to_official(trained: Mapping) -> dict[str, np.ndarray]:
    """A trained tree under their names and in their layouts, float32."""
    return {
        NAMES[ours][0]: np.ascontiguousarray(NAMES[ours][1][0](np.asarray(x, np.float32)))
        for ours, x in trained.items()
    }


def from_official(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple]) -> dict:
    """The trained tree that their tensors stand for.

    Args:
      tensors: theirs by name.
      shapes: of the tree's leaves by name.

    Raises:
      InputError: lists every missing, left-over and misshapen tensor.
    """
    expected = {NAMES[ours][0]: NAMES[ours][1][1](shape) for ours, shape in shapes.items()}
    if faults := weights.mismatch(tensors, expected, UNUSED):
        raise InputError(
            f"the file does not fit this configuration: {faults}: choose dataset, clip, variant, "
            "method.context, method.n_global and method.n_local as it was trained with."
        )
    return {
        ours: np.ascontiguousarray(NAMES[ours][1][0](tensors[NAMES[ours][0]])) for ours in shapes
    }


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors file, or of a checkpoint of the official code, in float32.

    Raises:
      InputError: there is no such file, it is damaged or of another kind, or reading it would run
        code.
    """
    if not path.is_file():
        raise InputError(
            f"{path} is no file: give a .safetensors, or a .ckpt of the official code."
        )
    if path.suffix == ".safetensors":
        return weights.read((path,))
    return _read_checkpoint(path)


def _read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path} is a PyTorch archive, which needs `pip install sotglp_jax[torch]`."
        ) from None
    try:
        # Theirs keeps its arguments, plain values, in a Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of torch, of zipfile or of struct, by what is wrong
        raise _unreadable(path, str(error)) from None
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(torch.is_tensor(x) for x in state.values()):
        raise InputError(f"{path} has no state_dict of tensors: give a .ckpt of the official code.")
    return {name: x.float().numpy() for name, x in state.items()}


def _unreadable(path: Path, said: str) -> InputError:
    if code := re.search(r"GLOBAL (\S+)", said):
        return InputError(
            f"{path} is refused, since reading it would run code ({code[1]}): save its state_dict "
            "alone, as safetensors, where you trust it."
        )
    return InputError(f"{path} is no readable PyTorch archive, perhaps cut short: copy it again.")


def bring_in(path: Path, config: ConfigDict, folder: str) -> None:
    """Makes a run folder of a file, as if the run had been trained to its end.

    Args:
      path: see `read`.
      config: of the run.
      folder: the run folder; "" names one.

    Raises:
      InputError: the file cannot be read or does not fit, or the folder holds a run.
    """
    import jax
    import jax.numpy as jnp

    from sotglp_jax import workdir
    from sotglp_jax.checkpoint import Checkpoints
    from sotglp_jax.run import prepare
    from sotglp_jax.state import init_state

    tensors = read(path)
    run = prepare(config, folder)
    if not run.method:
        raise InputError("zero-shot CLIP has no prompts to bring in: choose another variant.")
    if (run.workdir / "checkpoints").exists():
        raise InputError(f"{run.workdir} holds a run already: choose another --workdir.")
    shapes = jax.tree.map(lambda x: x.shape, jax.eval_shape(lambda: init_state(run)["trainable"]))
    trained = from_official(tensors, shapes)
    step = {"step": jnp.full((), run.total_steps, jnp.int32)}
    state = init_state(run) | {"trainable": jax.tree.map(jnp.asarray, trained)} | step
    workdir.create(run.workdir, run.settings, run.train.names, run.dataset.class_names)
    checkpoints = Checkpoints(run.workdir, create=True)
    checkpoints.save(run.total_steps, state, {"train_seconds": 0.0})
    checkpoints.close()
    if unused := sorted(tensors.keys() - to_official(trained).keys()):
        print(f"left out, since no score depends on them: {', '.join(unused)}")
    print(f"run folder: {run.workdir}, to be evaluated by sotglp_jax.main with the same --config")


def take_out(folder: Path, out: Path) -> None:
    """Writes what a finished run learned to a .safetensors file.

    Raises:
      InputError: no finished run that learned anything, or the file cannot be written.
    """
    from safetensors.numpy import save_file

    from sotglp_jax import finished

    if out.suffix != ".safetensors":
        raise InputError(f"--out={out} must end in .safetensors.")
    trained = finished.load(folder).trained
    if not trained:
        raise InputError(f"{folder} is a run of zero-shot CLIP, which learned nothing.")
    try:
        save_file(to_official(trained), out)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error}): choose another --out.") from None
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
    out.add_argument("folder", metavar="WORKDIR", type=Path)
    out.add_argument("--out", metavar="FILE", type=Path, required=True)
    into = commands.add_parser("in", help="a file to a run folder", allow_abbrev=False)
    into.add_argument("file", metavar="FILE", type=Path)
    arguments, rest = parser.parse_known_args(argv[1:])
    main.parse([argv[0], *rest])
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Does what the command line says."""
    main.quiet()
    if arguments.command == "out":
        take_out(arguments.folder.expanduser(), arguments.out.expanduser())
    else:
        config = flags.FLAGS.config
        if config is None or "study" in config:
            raise InputError("--config=FILE must name one run: configs/fewshot.py is a start.")
        bring_in(arguments.file.expanduser(), config, flags.FLAGS.workdir)


if __name__ == "__main__":
    run_command(run, flags_parser=parse)
