"""The weight of the local branch is chosen by validation accuracy."""

import jax.numpy as jnp
import numpy as np
import pytest

from sotglp_jax import fusion
from sotglp_jax.state import sgd


def part(of_global, of_local, labels, mask=None):
    one_hot = np.eye(3)
    return {
        "global": one_hot[of_global],
        "local": one_hot[of_local],
        "label": np.array(labels),
        "mask": np.ones(len(labels), bool) if mask is None else np.array(mask),
    }


def test_the_better_branch_wins_and_equals_keep_the_trainings_weight():
    labels = [0, 1, 2]
    right, wrong = [0, 1, 2], [1, 2, 0]
    of_global, of_local = fusion.choose([part(wrong, right, labels)], 0.25)
    assert of_local > of_global
    of_global, of_local = fusion.choose([part(right, wrong, labels)], 4.0)
    assert of_local < of_global == 1.0
    assert fusion.choose([part(right, right, labels)], 0.25) == (1.0, 0.25)
    assert fusion.choose([part(right, right, labels)], 0.3) == (1.0, 0.25)
    assert (1.0, 0.0) in fusion.GRID and (0.0, 1.0) in fusion.GRID


def test_padding_does_not_count():
    both = part([0, 1], [1, 1], [1, 0], mask=[True, False])
    of_global, of_local = fusion.choose([both], 0.25)
    assert of_local > of_global


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_several_batches_are_one_set(weight):
    a, b = part([0], [1], [0]), part([0, 0], [1, 1], [1, 1])
    assert fusion.choose([a, b], weight)[1] > 1.0


def test_weight_decay_leaves_a_learned_weight_alone():
    trainable = {"log_fusion": jnp.log(0.25), "global_prompts": jnp.ones(3)}
    optimizer = sgd(0.1, 0.9, 0.01)
    nothing = {name: jnp.zeros_like(x) for name, x in trainable.items()}
    updates, _ = optimizer.update(nothing, optimizer.init(trainable), trainable)
    assert updates["log_fusion"] == 0 and (updates["global_prompts"] < 0).all()
