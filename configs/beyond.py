"""What the paper does not do with SOT-GLP, beside the method as it is, seeds 1 to 3.

    python -m sotglp_jax.main --config=configs/beyond.py
    python -m sotglp_jax.main --config=configs/beyond.py:dataset=eurosat,clip=ViT-B/16

ε, and the weight of an ensemble with zero-shot CLIP, are chosen on validation images.
"""

from ml_collections import ConfigDict

from sotglp_jax.configs import common

VARIANTS = ("full", "validated_epsilon", "learned_fusion", "ensemble", "averaged")


def get_config(arg: str = "") -> ConfigDict:
    """The shared configuration for every one of them."""
    settings = [(name, {"variant": name}) for name in VARIANTS]
    return common.study(common.get_config(arg), arg, "settings", (16,), settings)
