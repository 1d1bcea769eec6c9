"""A classifier that needs no training, and the application around it."""

import io

import numpy as np
from PIL import Image

from sotglp_jax.data.transforms import Resize
from sotglp_jax.trained.classifier import Classifier

NAMES = ("red", "green", "blue")
KNOWN = np.linspace(0.1, 0.5, 41)
SIDE = 8


def program(pixels):
    """Classes by the mean colour; maps of two prompts on 2 x 2 patches."""
    n = len(pixels)
    mean = pixels.mean((1, 2)) / 255 + 1e-3
    maps = {
        "prompts": np.stack([np.full((n, 2, 2), 0.25), np.full((n, 2, 2), 0.5)], 1),
        "tops": np.zeros((n, 2, 3), int),
        "combined": np.full((n, 2, 2), 0.375),
        "kept": np.ones((n, 2, 2), bool),
        "shares": np.full((n, 2), 0.5),
    }
    fused = mean / mean.sum(-1, keepdims=True)
    return {"fused": fused, "ood_score": mean.max(-1) - mean.min(-1), "maps": maps}


def without_maps(pixels):
    found = program(pixels)
    return {"fused": found["fused"]}


def classifier(program=program, threshold=0.12, known=KNOWN):
    return Classifier(NAMES, Resize(SIDE), ("fused",), threshold, known, program)


def encoded(colour="red", size=(20, 10), kind="PNG", **options):
    """The content of a file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind, **options)
    return file.getvalue()
