"""The command: python -m sotglp_jax.inspect WORKDIR"""

from sotglp_jax.errors import run_command
from sotglp_jax.inspect.command import main, parse

if __name__ == "__main__":
    run_command(main, flags_parser=parse)
