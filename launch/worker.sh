#!/usr/bin/env bash
# What each host of a TPU slice, or each pod, runs: the main command, together with the other hosts.
#
#   launch/worker.sh --workdir=gs://BUCKET/NAME --config=FILE[:key=value,...] [--config.KEY=VALUE ...]
#
# Exit code 0: all is done, also all runs of a study. 42: a preemption (SIGTERM) came first, what was
# done is saved, and the same line goes on. 2: bad input. Every other is a fault.
set -uo pipefail

asked='' main='' code=0
trap 'asked=1; if [[ -n $main ]]; then kill -TERM "$main" 2>/dev/null; fi' TERM
python -m sotglp_jax.main --distributed=auto "$@" &
main=$!
if [[ -n $asked ]]; then kill -TERM "$main" 2>/dev/null; fi
wait "$main" || code=$?
while kill -0 "$main" 2>/dev/null; do # a signal ends `wait` before the command
  code=0
  wait "$main" || code=$?
done
if [[ -n $asked ]] && ((code == 0 || code > 128)); then exit 42; fi
exit "$code"
