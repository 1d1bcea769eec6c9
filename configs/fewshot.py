"""A method, SOT-GLP unless another is named, from a few images per class.

    python -m sotglp_jax.main --config=configs/fewshot.py
    python -m sotglp_jax.main --config=configs/fewshot.py:dataset=eurosat,clip=ViT-B/16,shots=16

The paper's 16-shot accuracy on EuroSAT with ViT-B/16 is 91.7 %.
"""

from sotglp_jax.configs.common import get_config

__all__ = ["get_config"]
