"""Names, layouts and files of the methods' PyTorch code."""

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from sotglp_jax.clip import weights
from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import Method

# Of what several repositories call them; the second one is PromptSRC's teacher.
IMAGE_ENCODERS = ("image_encoder.", "prompt_learner.ZS_image_encoder.")


# Beside the tensors, checkpoints keep arguments in a Namespace, and those of CoOp's framework a
# schedule with its optimizer, whose classes are not loaded: a Namespace holds their values too.
STAND_INS = [
    argparse.Namespace,
    (argparse.Namespace, "torch.optim.lr_scheduler.CosineAnnealingLR"),
    (argparse.Namespace, "torch.optim.sgd.SGD"),
    (lambda *_: {}, "collections.defaultdict"),
    dict,
]


def check_known(method: Method) -> None:
    """Raises `InputError` for a method whose parameters have no names in PyTorch."""
    if not method.torch_names:
        raise InputError(f"{method.title} has no parameters under names of PyTorch code.")


def frozen(names: Iterable[str], arch: weights.Architecture) -> set[str]:
    """Those of some tensors' names that CLIP's own weights have in the authors' checkpoints."""
    known = weights.openai_names(arch)
    visual = {name for name in known if name.startswith("visual.")}
    of_text = {f"text_encoder.{name}" for name in known - visual}
    of_vision = {p + name.removeprefix("visual.") for p in IMAGE_ENCODERS for name in visual}
    return (known | of_text | of_vision) & set(names)


def check_clip(tensors: Mapping[str, np.ndarray], params: Mapping) -> None:
    """Raises `InputError` for prompts that lie beside the weights of another CLIP.

    Args:
      tensors: theirs by name, half precision or not.
      params: as in `Clip.params`.
    """
    for theirs, tower in (("image_encoder", "vision"), ("text_encoder", "text")):
        name, ours = f"{theirs}.positional_embedding", params[tower]["positional_embedding"]
        found = tensors.get(name, ours)
        # PromptSRC's averages of all weights in half precision move the frozen ones too.
        near = found.shape == ours.shape and np.abs(found - ours).max() <= 1e-2 * np.abs(ours).max()
        if not near:
            raise InputError(
                f"{name} in the file is not this CLIP's: choose the --config.clip.name that it "
                "was trained with."
            )


def to_official(method: Method, params: Mapping) -> dict[str, np.ndarray]:
    """The parameters under their authors' names and in their layouts, float32."""
    shapes = {ours: np.shape(params[ours]) for ours in method.torch_names if ours in params}
    return {
        theirs: np.array(layout[0](np.asarray(params[ours])[place]), np.float32, order="C")
        for theirs, (ours, place, layout) in _tensors(method, shapes).items()
    }


def _tensors(method: Method, shapes: Mapping[str, tuple]) -> dict[str, tuple]:
    """For each of their tensors our parameter, the part of it, and the layout."""
    found = {}
    for ours, shape in shapes.items():
        names, layout = method.torch_names[ours]
        places = [(names, ...)] if isinstance(names, str) else []
        places = places or [(names(row), row) for row in range(shape[0])]
        found |= {theirs: (ours, place, layout) for theirs, place in places}
    return found


def from_official(
    method: Method, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple]
) -> dict[str, np.ndarray]:
    """The parameters that their authors' tensors stand for.

    Args:
      method: whose parameters they are.
      tensors: theirs by name.
      shapes: of the parameters by name.

    Raises:
      InputError: lists every missing, left-over and misshapen tensor.
    """
    known = _tensors(method, shapes)
    expected = {
        theirs: layout[1](shapes[ours] if place is ... else shapes[ours][1:])
        for theirs, (ours, place, layout) in known.items()
    }
    if faults := weights.mismatch(tensors, expected, method.torch_unused):
        raise InputError(
            f"the file does not fit this configuration: {faults}: choose dataset, clip, method, "
            "variant and the method's settings as it was trained with."
        )
    params = {ours: np.empty(shape, np.float32) for ours, shape in shapes.items()}
    for theirs, (ours, place, layout) in known.items():
        params[ours][place] = layout[0](tensors[theirs])
    return params


def load(path: Path) -> dict[str, np.ndarray]:
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
        return weights.load((path,))
    return _read_checkpoint(path)


def _read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path} is a PyTorch archive, which needs `pip install sotglp_jax[torch]`."
        ) from None
    try:
        with torch.serialization.safe_globals(STAND_INS):
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
