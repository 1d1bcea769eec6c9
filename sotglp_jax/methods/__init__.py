"""What is learned on the frozen CLIP: a method is one file here, or anybody's class.

The contract is in `contract`.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import Method

NAMES = {
    "sotglp": "sotglp_jax.methods.sotglp:SotGlp",
    "coop": "sotglp_jax.methods.coop:CoOp",
    "cocoop": "sotglp_jax.methods.cocoop:CoCoOp",
    "gallop": "sotglp_jax.methods.gallop:GalLoP",
    "ivlp": "sotglp_jax.methods.ivlp:Ivlp",
    "language": "sotglp_jax.methods.ivlp:Language",
    "vpt": "sotglp_jax.methods.ivlp:Vpt",
    "linear_probe": "sotglp_jax.methods.linear_probe:LinearProbe",
    "locoop": "sotglp_jax.methods.locoop:LoCoOp",
    "lsn": "sotglp_jax.methods.lsn:Lsn",
    "lsn_cocoop": "sotglp_jax.methods.lsn:LsnCoCoOp",
    "maple": "sotglp_jax.methods.maple:MaPLe",
    "plot": "sotglp_jax.methods.plot:Plot",
    "plotpp": "sotglp_jax.methods.plotpp:PlotPlusPlus",
    "proda": "sotglp_jax.methods.proda:ProDA",
    "promptsrc": "sotglp_jax.methods.promptsrc:PromptSrc",
    "zeroshot": "sotglp_jax.methods.zeroshot:ZeroShot",
}
ADDED = ("init", "encode_classes", "score")  # what the base leaves to every method
FACTS = ("title", "logits")


def load(name: str) -> type[Method]:
    """The class of a method.

    Args:
      name: a key of `NAMES`, or PACKAGE.MODULE:CLASS.

    Raises:
      InputError: there is no such class, or it lacks something of the contract; says what.
    """
    module, colon, attribute = NAMES.get(name, name).partition(":")
    if not colon:
        raise InputError(
            f'method "{name}" is unknown: take one of {", ".join(NAMES)}, or '
            "PACKAGE.MODULE:CLASS of your own."
        )
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise  # a module that theirs imports
        raise InputError(
            f"method={name}: there is no module {error.name} here: give its folder in PYTHONPATH."
        ) from None
    return _checked(name, found)


def make(options: Mapping[str, Any], towers) -> Method:
    """The method that `config.method` describes.

    Args:
      options: its name and its options.
      towers: CLIP's modules, or None to check the options alone.

    Raises:
      InputError: an option is unknown or out of its range; says which.
    """
    options = dict(options)
    found = load(options.pop("name"))
    return found(towers, **options)


def _checked(name: str, found: Any) -> type[Method]:
    if not isinstance(found, type) or not issubclass(found, Method):
        raise InputError(
            f"method={name} names no class derived from sotglp_jax.methods.contract.Method: "
            "derive it from there."
        )
    if "__dataclass_params__" not in vars(found):
        raise InputError(
            f"method={name} is no frozen dataclass: write @dataclasses.dataclass(frozen=True) "
            "above the class."
        )
    # `loss` has a check of its own, since a method that is not trained in steps needs none.
    if missing := [part for part in (*FACTS, *ADDED) if not hasattr(found, part)]:
        raise InputError(f"method={name} has no {missing[0]}: every method needs one.")
    for option, default in found.options().items():
        if not isinstance(default, bool | int | float | str | tuple):
            raise InputError(
                f"method={name} has the option {option} without a default that is a number, a "
                "text or a tuple: give it one, or write ClassVar where it is no option."
            )
    return found
