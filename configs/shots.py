"""Accuracy over 1, 2, 4, 8 and 16 images a class, seeds 1 to 3: fifteen runs and their table.

    python -m sotglp_jax.main --config=configs/shots.py:dataset=eurosat,clip=ViT-B/16

What is finished is not run again; shots=4 or seed=1 in the string leaves the others out.
"""

from ml_collections import ConfigDict

from sotglp_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """The shared configuration for every number of shots."""
    return common.study(common.get_config(arg), arg, "few_shot", (1, 2, 4, 8, 16))
