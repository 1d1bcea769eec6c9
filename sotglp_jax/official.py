"""Names, layouts and files of the authors' PyTorch code."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sotglp_jax.clip import weights
from sotglp_jax.clip.weights import SAME, TRANSPOSE
from sotglp_jax.errors import InputError

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
        NAMES[ours][0]: np.array(NAMES[ours][1][0](np.asarray(x)), np.float32, order="C")
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
        ours: np.array(NAMES[ours][1][0](tensors[NAMES[ours][0]]), order="C") for ours in shapes
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
