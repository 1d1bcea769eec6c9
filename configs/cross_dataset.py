"""Cross-data-set transfer: trained on one data set, tested on others, seeds 1 to 3.

    python -m sotglp_jax.main --config=configs/cross_dataset.py:clip=ViT-B/16
    python -m sotglp_jax.main --config=configs/cross_dataset.py:dataset=dtd,targets=eurosat+food101

The field's way is ImageNet and the ten other benchmarks, which is the default.
"""

from ml_collections import ConfigDict

from sotglp_jax.configs import common
from sotglp_jax.data.catalog import BENCHMARKS


def get_config(arg: str = "") -> ConfigDict:
    """The shared configuration with the data sets to test on."""
    given = common.parse(arg)
    config = common.get_config(f"dataset=imagenet,{arg}", "transfer")
    if "targets" not in given:
        config.targets = tuple(name for name in BENCHMARKS if name != config.dataset)
    return common.study(config, arg, "transfer", (16,))
