"""Out-of-distribution detection: the test images of a data set, and images of other sets.

    python -m sotglp_jax.main --config=configs/ood.py
    python -m sotglp_jax.main --config=configs/ood.py:dataset=imagenet,clip=ViT-B/16

The paper's means over the four sets of ImageNet are 28.1 % FPR95 and 93.2 % AUROC (GL-MCM).
"""

from ml_collections import ConfigDict

from sotglp_jax.configs import common
from sotglp_jax.data.catalog import OOD
from sotglp_jax.data.drawn import KINDS

SETS = {"digits": tuple(KINDS), "imagenet": tuple(OOD)}


def get_config(arg: str = "") -> ConfigDict:
    """The shared configuration with the drawn sets for the digits, and the field's for all else."""
    config = common.get_config(arg)
    config.ood.sets = config.ood.sets or SETS.get(config.dataset, SETS["imagenet"])
    if not config.method.get("local", "value"):
        config.method.local = "value"  # the patches of the published rows of GL-MCM
    return config
