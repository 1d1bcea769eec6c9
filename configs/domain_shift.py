"""Domain shift: trained on ImageNet, tested on V2, Sketch, A and R, seeds 1 to 3.

    python -m sotglp_jax.main --config=configs/domain_shift.py:clip=ViT-B/16

The classes are ImageNet's, so their local prompts are used; A and R are 200-way.
"""

from ml_collections import ConfigDict

from sotglp_jax.configs import common
from sotglp_jax.data.catalog import SHIFTS


def get_config(arg: str = "") -> ConfigDict:
    """The shared configuration with the shifted sets to test on."""
    given = common.parse(arg)
    config = common.get_config(f"dataset=imagenet,{arg}", "transfer")
    if "targets" not in given:
        config.targets = tuple(SHIFTS)
    return common.study(config, arg, "transfer", (16,))
