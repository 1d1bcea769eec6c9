#!/usr/bin/env bash
# Trains on a Cloud TPU slice of any size: queues for spot capacity, trains on all workers, and
# after each preemption queues again and goes on, until the run has its results.
#
#   launch/tpu_vm.sh [--dry-run] NAME ZONE TYPE BUCKET --config=FILE[:key=value,...] [...]
#   launch/tpu_vm.sh sotglp us-east5-a v6e-16 my-bucket --config=configs/fewshot.py:clip=ViT-B/16
#
# Call it from the clone, on a machine that stays on, after `gcloud auth login` and `gcloud config
# set project`. It sends the committed state of the clone to the workers; the run folder is
# gs://BUCKET/NAME, mounted by gcsfuse. Make the bucket with folders that are renamed in one piece,
# which checkpoints rely on:
#   gcloud storage buckets create gs://BUCKET --location=REGION \
#     --uniform-bucket-level-access --enable-hierarchical-namespace
# Data sets: put them below gs://BUCKET/data and pass --config.data.root=bucket/data. RUNTIME names
# the software of the VM (default tpu-ubuntu2204-base; v6e wants v2-alpha-tpuv6e). train.batch_size
# must be a multiple of the number of chips.
#
# --dry-run prints every command once, in order. Tested: the loop with a stand-in for gcloud, whose
# flags are those of Google Cloud SDK 528; not yet run on a TPU.
set -euo pipefail

dry=
if [[ ${1-} == --dry-run ]]; then
  dry=1
  shift
fi
if (($# < 4)); then
  echo "error: needs NAME ZONE TYPE BUCKET, see the beginning of $0." >&2
  exit 2
fi
name=$1 zone=$2 type=$3 bucket=$4
shift 4
pause=${PAUSE:-60} # seconds between two looks at the queue
archive=$(mktemp -d)/sotglp_jax.tar.gz
trap 'rm -rf "${archive%/*}"' EXIT

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
    --runtime-version="${RUNTIME:-tpu-ubuntu2204-base}" --spot
}
delete() { queue delete "$name" --force --quiet; }
finished() { gcloud storage ls "gs://$bucket/$name/results.json" >/dev/null 2>&1; }
state() {
  gcloud compute tpus queued-resources describe "$name" --zone="$zone" \
    --format='value(state.state)' 2>/dev/null || echo NONE
}

# On every worker: a Python that is new enough, the clone, the bucket. No caching of file names, so
# that each worker sees at once what another has written.
key=/usr/share/keyrings/cloud.google.asc
setup="set -e
pkill -f '[s]otglp_jax.main' || true # left over from a lost connection, it would hold the TPU
rm -rf sotglp_jax && mkdir -p sotglp_jax bucket && tar -xzf sotglp_jax.tar.gz -C sotglp_jax
command -v gcsfuse >/dev/null || {
  curl -sS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee $key >/dev/null
  echo \"deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main\" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update -q && sudo apt-get install -qy gcsfuse
}
mountpoint -q bucket || gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 $bucket bucket
command -v ~/.local/bin/uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
[ -d venv ] || ~/.local/bin/uv venv -q --python 3.12 venv
~/.local/bin/uv pip install -q --python venv/bin/python 'jax[tpu]' -e ./sotglp_jax"
train="cd sotglp_jax && ln -sfn ../bucket bucket &&
../venv/bin/python -m sotglp_jax.main --distributed=auto --workdir=bucket/$name"
for argument in "$@"; do train+=" $(printf '%q' "$argument")"; done

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
until finished; do
  case $(state) in
    NONE) create || failed ;;
    # On a slice that is still there it is a fault of the run, not a preemption.
    ACTIVE) go || [[ $(state) != ACTIVE ]] || failed ;;
    FAILED | SUSPENDED) delete ;; # preempted
    *) ;;                         # waiting, or being made or taken away
  esac
  finished || sleep "$pause"
done
[[ $(state) == NONE ]] || delete
