"""The ablations of a method (of SOT-GLP: the paper's and more), seeds 1 to 3.

    python -m sotglp_jax.main --config=configs/ablation.py
    python -m sotglp_jax.main --config=configs/ablation.py:dataset=eurosat,clip=ViT-B/16

The digits come with their out-of-distribution sets, ImageNet with the field's.
"""

from ml_collections import ConfigDict

from sotglp_jax import methods
from sotglp_jax.configs import common, ood


def get_config(arg: str = "") -> ConfigDict:
    """The shared configuration for every variant."""
    config = ood.get_config(arg)
    config.ood.sets = ood.SETS.get(config.dataset, ())
    names = ["full", *methods.load(config.method.name).variants]
    settings = [(name, {"variant": name}) for name in names]
    return common.study(config, arg, "settings", (16,), settings)
