#!/usr/bin/env bash
# Trains on a Cloud TPU slice of any size: queues for capacity, trains on all workers, and after each
# preemption queues again and goes on, until the run, or every run of the study, is finished.
#
#   launch/tpu_vm.sh [--dry-run] [--on-demand] NAME ZONE TYPE BUCKET --config=FILE[:key=value,...] \
#     [--config.KEY=VALUE ...] [-- GCLOUD_FLAG ...]
#   launch/tpu_vm.sh sotglp us-east5-a v6e-16 my-bucket --config=configs/fewshot.py:clip=ViT-B/16
#
# Call it from the clone, on a machine that stays on, after `gcloud auth login` and `gcloud config
# set project`. It sends the committed state of the clone to the workers. The run folder, or that of
# the study, is gs://BUCKET/NAME; what each worker prints is below logs/ there, a minute old at most.
#
# TYPE is v2-8, v3-32, v4-16, v5p-8, v5e-16 (also v5litepod-16), v6e-16 and the like; the software of
# the VM follows from it, and RUNTIME=... takes another. Spot capacity, unless --on-demand stands
# first. What follows -- goes to `gcloud compute tpus queued-resources create`: --reserved (not spot
# then either), --network=N, --subnetwork=N, --service-account=S, --labels=KEY=VALUE.
#
# --dry-run prints every command once, in order. Tested: the loop with a stand-in for gcloud, whose
# flags are those of Google Cloud SDK 528; not yet run on a TPU.
set -euo pipefail

usage() {
  echo "error: $1; see the beginning of $0." >&2
  exit 2
}

dry='' spot=--spot
while [[ ${1-} == --dry-run || ${1-} == --on-demand ]]; do
  if [[ $1 == --dry-run ]]; then dry=1; else spot=''; fi
  shift
done
[[ $# -ge 4 && "$1$2$3$4" != *--* ]] || usage "needs NAME ZONE TYPE BUCKET"
name=$1 zone=$2 type=${3/#v5e-/v5litepod-} bucket=${4#gs://}
shift 4
arguments=()
while (($#)) && [[ $1 != -- ]]; do
  arguments+=("$1")
  shift
done
passed=("${@:2}")
if [[ " ${passed[*]-}" == *" --reserv"* ]]; then spot=''; fi
case $type in
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v[234]-*) runtime=tpu-ubuntu2204-base ;;
  *) usage "$type is no TPU that these commands know, such as v6e-16; TPU7x is in GKE, launch/gke.yaml" ;;
esac
pause=${PAUSE:-60} # seconds between two looks at the queue
archive=$(mktemp -d)/sotglp_jax.tar.gz
trap 'rm -rf "${archive%/*}"' EXIT
if changed=$(git status --porcelain) && [[ -n $changed ]]; then
  printf 'note: what is not committed is not sent:\n%s\n' "$changed" >&2
fi

run() {
  if [[ -n $dry ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
queue() { run gcloud compute tpus queued-resources "$@" --zone="$zone"; }
everywhere() {
  run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}
create() {
  queue create "$name" --node-id="$name" --accelerator-type="$type" \
    --runtime-version="${RUNTIME:-$runtime}" ${spot:+"$spot"} "${passed[@]}"
}
delete() { queue delete "$name" --force --quiet; }
state() {
  gcloud compute tpus queued-resources describe "$name" --zone="$zone" \
    --format='value(state.state)' 2>/dev/null || echo NONE
}

# On every worker: the clone, and a Python that is new enough.
setup="set -e
pkill -f '[s]otglp_jax.main' || true # left over from a lost connection, it holds the TPU
for _ in {1..90}; do pgrep -f '[s]otglp_jax.main' >/dev/null || break; sleep 1; done
rm -rf sotglp_jax && mkdir sotglp_jax && tar -xzf sotglp_jax.tar.gz -C sotglp_jax
command -v ~/.local/bin/uv >/dev/null || python3 -m pip install -q --user uv
[ -d venv ] || ~/.local/bin/uv venv -q --python 3.12 venv
~/.local/bin/uv pip install -q --python venv/bin/python -e './sotglp_jax[tpu,gcs]'"
# What it prints goes to the bucket as well, whole again every minute, for objects do not grow.
train="cd sotglp_jax && source ../venv/bin/activate
log=\$(hostname)-\$(date -u +%Y%m%d-%H%M%S).log
copy() { gcloud storage cp -q \$log gs://$bucket/$name/logs/ >/dev/null; }
while sleep 60 && kill -0 \$\$; do copy; done >/dev/null 2>&1 &
copier=\$!
launch/worker.sh --workdir=gs://$bucket/$name${arguments[*]+$(printf ' %q' "${arguments[@]}")} 2>&1 |
  (trap '' TERM HUP; exec tee \$log)
code=\${PIPESTATUS[0]}
kill \$copier; copy
exit \$code"

go() {
  run git archive --format=tar.gz --output="$archive" HEAD &&
    run gcloud compute tpus tpu-vm scp "$archive" "$name:" --zone="$zone" --worker=all &&
    everywhere "$setup" && everywhere "$train"
}

if [[ -n $dry ]]; then
  create
  go
  delete
  exit
fi
failures=0
failed() {
  ((++failures < 3)) && return
  echo "error: failed three times; what is left of the TPU goes with:" >&2
  dry=1 delete >&2
  exit 1
}
# On a slice that is still there a while later it is a fault of the run, not a preemption.
missed() {
  sleep "$pause"
  [[ $(state) != ACTIVE ]] || failed
}
finished=''
until [[ -n $finished ]]; do
  case $(state) in
    NONE) create || failed ;;
    ACTIVE) if go; then finished=1; else missed; fi ;;
    FAILED | SUSPENDED) delete ;; # preempted
    *) ;;                         # waiting, or being made or taken away
  esac
  [[ -n $finished ]] || sleep "$pause"
done
delete
