# An image with the package and JAX for one kind of device:
#
#   docker build --build-arg DEVICE=cpu -t sotglp .          cpu, cuda12, cuda13 or tpu
#   docker run --gpus=all --shm-size=1g -v "$PWD/runs:/runs" sotglp \
#     python -m sotglp_jax.main --config=configs/fewshot.py --workdir=/runs/digits
#
# CUDA comes from PyPI with JAX; the machine needs NVIDIA's driver and container toolkit alone. What
# is below data/ and runs/ is not in the image: mount it, or read and write gs://BUCKET.
FROM python:3.12-slim
ARG DEVICE=cpu
WORKDIR /sotglp_jax
COPY . .
RUN case "$DEVICE" in cpu) extras=gcs ;; cuda12 | cuda13 | tpu) extras=gcs,$DEVICE ;; \
    *) echo "error: DEVICE=$DEVICE is none of cpu, cuda12, cuda13, tpu." >&2; exit 2 ;; esac \
  && pip install --no-cache-dir -e ".[$extras]"
CMD ["python", "-m", "sotglp_jax", "doctor"]
