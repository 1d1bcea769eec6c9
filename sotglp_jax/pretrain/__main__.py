"""The command: python -m sotglp_jax.pretrain --out=DIR"""

from absl import flags

from sotglp_jax.errors import run_command
from sotglp_jax.pretrain.training import main

if __name__ == "__main__":
    flags.mark_flag_as_required("out")
    run_command(main)
