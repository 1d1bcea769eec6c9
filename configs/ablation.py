"""The ablations of a method (of SOT-GLP: the paper's and more), seeds 1 to 3.

Variants that need validation images, which a data set may lack, are left out: configs/beyond.py.

    python -m sotglp_jax.main --config=configs/ablation.py
    python -m sotglp_jax.main --config=configs/ablation.py:dataset=eurosat,clip=ViT-B/16

The digits come with their out-of-distribution sets, ImageNet with the field's.
"""

from ml_collections import ConfigDict

from sotglp_jax import methods
from sotglp_jax.configs import common, ood


def get_config(arg: str = "") -> ConfigDict:
    """The shared configuration for every variant that needs no validation images."""
    config = ood.get_config(arg)
    config.ood.sets = ood.SETS.get(config.dataset, ())
    found, options = methods.load(config.method.name), config.method.to_dict()
    names = [
        name
        for name, variant in found.variants.items()
        if not methods.make(options | dict(variant.changes), towers=None).validation
    ]
    settings = [(name, {"variant": name}) for name in ("full", *names)]
    return common.study(config, arg, "settings", (16,), settings)
