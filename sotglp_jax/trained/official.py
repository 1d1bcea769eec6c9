"""Names, layouts and files of the methods' PyTorch code."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sotglp_jax.clip import weights
from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import Method


def check_known(method: Method) -> None:
    """Raises `InputError` for a method whose parameters have no names in PyTorch."""
    if not method.torch_names:
        raise InputError(f"{method.title} has no parameters under names of PyTorch code.")


def to_official(method: Method, params: Mapping) -> dict[str, np.ndarray]:
    """The parameters under their authors' names and in their layouts, float32."""
    return {
        theirs: np.array(layout[0](np.asarray(params[ours])), np.float32, order="C")
        for ours, (theirs, layout) in method.torch_names.items()
        if ours in params
    }


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
    known = {ours: method.torch_names[ours] for ours in shapes}
    expected = {theirs: layout[1](shapes[ours]) for ours, (theirs, layout) in known.items()}
    if faults := weights.mismatch(tensors, expected, method.torch_unused):
        raise InputError(
            f"the file does not fit this configuration: {faults}: choose dataset, clip, method, "
            "variant and the method's settings as it was trained with."
        )
    return {
        ours: np.array(layout[0](tensors[theirs]), order="C")
        for ours, (theirs, layout) in known.items()
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
