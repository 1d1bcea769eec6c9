"""How much λ, K and ε matter, one at a time and the others as usual, seeds 1 to 3.

python -m sotglp_jax.main --config=configs/sensitivity.py
python -m sotglp_jax.main --config=configs/sensitivity.py:dataset=imagenet,clip=ViT-B/16
"""

from ml_collections import ConfigDict

from sotglp_jax.configs import common
from sotglp_jax.settings import flatten

VALUES = {
    "method.fusion_weight": (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0),
    "method.topk": (1, 5, 10, 20, 50),
    "method.epsilon": (0.01, 0.1, 1.0),
}


def get_config(arg: str = "") -> ConfigDict:
    """The shared configuration for every value of each key."""
    config = common.get_config(arg)
    usual = flatten(config)
    settings = [
        (f"{key.partition('.')[2]}={value}", {key: value})
        for key, values in VALUES.items()
        for value in values
        if value != usual[key]
    ]
    return common.study(config, arg, "settings", (16,), [("usual", {}), *settings])
