"""What training carries from step to step: the trainable tree and its optimizer."""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding
from ml_collections import ConfigDict

from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.run import Run

State = dict  # {"step": int32 (), "key": uint32 key data, "trainable": ..., "opt_state": ...}


def sgd(
    learning_rate: float | optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """PyTorch's SGD: weight decay is added to the gradient before momentum.

    Not to that of a learned λ, which decay would draw to 1.
    """

    def decay(gradient, trainable):
        return {
            name: x if name == "log_fusion" else x + weight_decay * trainable[name]
            for name, x in gradient.items()
        }

    return optax.chain(optax.stateless(decay), optax.sgd(learning_rate, momentum))


def learning_rate(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """Constant during warm-up, then a cosine to zero over the other epochs; one value an epoch.

    Args:
      config: the `train` part of the configuration.
      steps_per_epoch: optimizer steps of an epoch.
    """

    def schedule(step):
        epoch = step // steps_per_epoch
        done = (epoch - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
        cosine = 0.5 * config.lr * (1 + jnp.cos(jnp.pi * done))
        return jnp.where(epoch < config.warmup_epochs, config.warmup_lr, cosine)

    return schedule


def make_optimizer(run: Run) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer of a run, and the learning rate it follows."""
    config = run.config.train
    schedule = learning_rate(config, run.steps_per_epoch)
    return sgd(schedule, config.momentum, config.weight_decay), schedule


def init_state(run: Run) -> State:
    """The state before the first step, a function of the seed."""
    n_classes = len(run.dataset.class_names)
    optimizer, _ = make_optimizer(run)
    return first_state(run.method, optimizer, run.frozen, n_classes, run.config.seed)


def first_state(
    method: SotGlp,
    optimizer: optax.GradientTransformation,
    frozen: dict,
    n_classes: int,
    seed: int,
) -> State:
    """The same from its parts."""
    init_key, step_key = jax.random.split(jax.random.key(seed))
    trainable = method.init(init_key, frozen, n_classes)
    return {
        "step": jnp.zeros((), jnp.int32),
        "key": jax.random.key_data(step_key),
        "trainable": trainable,
        "opt_state": optimizer.init(trainable),
    }


def restore(run: Run, checkpoints: Checkpoints, sharding: Sharding) -> tuple[State, dict]:
    """State and meta of the last checkpoint, placed by `sharding`; see `Checkpoints.restore`."""
    shapes = jax.eval_shape(lambda: init_state(run))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    return checkpoints.restore(like)
