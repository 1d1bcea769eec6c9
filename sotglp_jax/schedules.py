"""Learning rates over the epochs of a stage."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sotglp_jax.methods.contract import Stage


def paper(stage: Stage, epoch: Int[Array, ""]) -> Float[Array, ""]:
    """Warm-up, then a cosine over the other epochs that ends at zero (SOT-GLP, section 4)."""
    return _cosine(stage, epoch, stage.epochs - stage.warmup_epochs)


def dassl(stage: Stage, epoch: Int[Array, ""]) -> Float[Array, ""]:
    """Warm-up, then a cosine over as many epochs as there are in all: it ends above zero.

    It is what Dassl (https://github.com/KaiyangZhou/Dassl.pytorch) gives to CoOp and its kin.
    """
    return _cosine(stage, epoch, stage.epochs)


SCHEDULES: dict[str, Callable] = {"paper": paper, "dassl": dassl, "steps": paper}
BY_STEP = ("steps",)  # move within an epoch; all others are constant there


def learning_rate(stage: Stage, progress: Float[Array, ""]) -> Float[Array, ""]:
    """The learning rate so many epochs, and fractions of one, after a stage's begin."""
    epoch = progress if stage.schedule in BY_STEP else jnp.floor(progress)
    return SCHEDULES[stage.schedule](stage, epoch)


def _cosine(stage: Stage, epoch: Int[Array, ""], period: int) -> Float[Array, ""]:
    done = (epoch - stage.warmup_epochs) / period
    cosine = 0.5 * stage.lr * (1 + jnp.cos(jnp.pi * done))
    return jnp.where(epoch < stage.warmup_epochs, stage.warmup_lr, cosine)
