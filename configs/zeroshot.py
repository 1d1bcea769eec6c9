"""CLIP without training: one sentence per class.

    python -m sotglp_jax.main --config=configs/zeroshot.py:dataset=eurosat,clip=ViT-B/16

The paper's zero-shot accuracy on EuroSAT with ViT-B/16 is 48.3 %.
"""

from ml_collections import ConfigDict

from sotglp_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """The shared configuration with nothing to learn."""
    return common.get_config(f"method=zeroshot,{arg}")
