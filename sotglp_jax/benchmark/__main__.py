"""The command: python -m sotglp_jax.benchmark --what=train --classes=10 --batch=8"""

from absl import flags

from sotglp_jax.benchmark.cases import MEASURED, PRINTED, SIZES, main
from sotglp_jax.errors import run_command
from sotglp_jax.settings import DTYPES

if __name__ == "__main__":
    flags.DEFINE_enum("what", "train", [*MEASURED, *PRINTED], "What to measure.")
    flags.DEFINE_string("method", "sotglp", "A method by name, or PACKAGE.MODULE:CLASS.")
    flags.DEFINE_integer("stage", 1, "Which of a training's stages.", lower_bound=1)
    flags.DEFINE_enum("clip", "ViT-B/16", list(SIZES), "Whose sizes.")
    flags.DEFINE_integer("classes", 10, "Number of classes.", lower_bound=1)
    flags.DEFINE_integer("batch", 8, "Images in a batch.", lower_bound=1)
    flags.DEFINE_enum("precision", "float32", list(DTYPES), "Of the products in the towers.")
    flags.DEFINE_integer("mesh", 0, "As --config.mesh.", lower_bound=0)
    flags.DEFINE_integer("chunk", 0, "As --config.text.chunk.", lower_bound=0)
    flags.DEFINE_bool("cached", False, "Train or evaluate on cached features of the images.")
    run_command(main)
