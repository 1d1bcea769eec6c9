#!/usr/bin/env bash
# Trains on all GPUs of this machine.
#
#   launch/local.sh [--dry-run] --config=FILE[:key=value,...] [--workdir=DIR] [--config.KEY=VALUE ...]
#
# One process drives all of them, so train.batch_size must be a multiple of their number;
# CUDA_VISIBLE_DEVICES=0,1 takes some. Ctrl-C saves, and the same line goes on. A JAX without
# CUDA stops with an error here, where plain `python -m sotglp_jax.main` would train on the CPU.
# For many runs at once, one a GPU, see `sotglp sweep`.
#
# --dry-run prints the command instead. Tested: the dry run; not yet run on a machine with GPUs.
set -euo pipefail

run=()
if [[ ${1-} == --dry-run ]]; then
  run=(printf '%q ')
  shift
fi
"${run[@]}" env JAX_PLATFORMS=cuda,cpu python -m sotglp_jax.main "$@"
