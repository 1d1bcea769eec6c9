"""Base-to-new: trained on the first half of the classes, tested on both halves, seeds 1 to 3.

    python -m sotglp_jax.main --config=configs/base_to_new.py:dataset=eurosat,clip=ViT-B/16

New classes have no local prompts: the global branch stands for them, unless one pool of local
prompts is shared by all classes (--config.method.class_specific=False).
"""

from ml_collections import ConfigDict

from sotglp_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """The shared configuration on the base classes."""
    config = common.get_config(arg, "base_to_new")
    config.data.classes = "base"
    config.targets = ("new",)
    return common.study(config, arg, "base_to_new", (16,))
