"""What SOT-GLP chooses by validation accuracy: weights of its logits, and ε."""

import jax.numpy as jnp
import numpy as np
import pytest

from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import Scores
from sotglp_jax.methods.sotglp import GRID, SotGlp
from sotglp_jax.optimizers import sgd

RIGHT, WRONG = [0, 1, 2], [1, 2, 0]


class Given(SotGlp):
    """Has its logits from where the image features would be."""

    def score(self, params, frozen, text, image):
        """As they are, and their weighted sum."""
        weights = params["fusion"] if "fusion" in params else params["ensemble"]
        fused = sum(a * x for a, x in zip(weights, image.values(), strict=True))
        return Scores(image | {"fused": fused})


def batch(of_global, of_local, labels):
    one_hot = np.eye(3, dtype=np.float32)
    return {"global": one_hot[of_global], "local": one_hot[of_local]}, np.array(labels)


def choose(weight, *batches):
    """The weights of the global and the local branch."""
    method = Given(None, fusion="validated", fusion_weight=weight)
    params = method.finish({}, {}, None, {"val": batches}.get)
    found = method.summary(params, 10)["fusion"]
    return found["global"], found["local"]


def test_the_better_branch_wins_and_equals_keep_the_trainings_weight():
    of_global, of_local = choose(0.25, batch(WRONG, RIGHT, RIGHT))
    assert of_local > of_global
    of_global, of_local = choose(4.0, batch(RIGHT, WRONG, RIGHT))
    assert of_local < of_global == 1.0
    assert choose(0.25, batch(RIGHT, RIGHT, RIGHT)) == (1.0, 0.25)
    assert choose(0.3, batch(RIGHT, RIGHT, RIGHT)) == (1.0, 0.25)
    assert (1.0, 0.0) in GRID and (0.0, 1.0) in GRID


def test_zero_shot_clip_has_a_say_only_where_it_is_needed():
    method = Given(None, ensemble=True)
    for learned, plain, better in (
        (RIGHT, WRONG, False),
        (WRONG, RIGHT, True),
        (RIGHT,) * 2 + (False,),
    ):
        params = method.finish({}, {}, None, {"val": [batch(learned, plain, RIGHT)]}.get)
        of_learned, of_plain = params["ensemble"]
        assert (of_plain > of_learned) == better and (of_plain > 0) == better
    found = method.summary(params, 10)["ensemble"]
    assert found == {"learned": 1.0, "zero-shot": 0.0}


class Scaled(SotGlp):
    """Is right where ε is small enough."""

    def score(self, params, frozen, text, image):
        """One class, or the other."""
        right = jnp.stack([image["least"] - params["epsilon"], params["epsilon"] - image["least"]])
        return Scores({"fused": right.T})


def test_the_epsilon_with_the_best_validation_accuracy_is_taken():
    def choose(least, **options):
        method = Scaled(None, validated_epsilon=True, **options)
        images = [({"least": np.full(2, least, np.float32)}, np.array([0, 0]))]
        params = method.finish({}, {}, None, {"val": images}.get)
        return method.summary(params, 10)["transport"]["epsilon"]

    assert choose(0.02) == pytest.approx(0.01)  # of those below, the nearest to the training's
    assert choose(2.0) == pytest.approx(0.1) and choose(2.0, epsilon=0.9) == 1.0


def test_padding_does_not_count():
    of_global, of_local = choose(0.25, batch([0, 1, 1], [1, 1, 1], [1, -1, -1]))
    assert of_local > of_global


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_several_batches_are_one_set(weight):
    a, b = batch([0], [1], [0]), batch([0, 0], [1, 1], [1, 1])
    assert choose(weight, a, b)[1] > 1.0


def test_the_chosen_weights_decide_and_others_look_at_no_image():
    method, phi = SotGlp(None, fusion="validated"), jnp.array([[3.0, 1.0]])
    frozen, sim = {"logit_scale": jnp.zeros(())}, jnp.array([[1.0, 2.0]])
    logits = method._logits({"fusion": np.array([0.0, 1.0])}, frozen, sim, phi)
    np.testing.assert_array_equal(logits["fused"], phi)
    assert SotGlp(None).finish({"a": 1}, {}, None, None) == {"a": 1}
    assert method.validation == "method.fusion=validated" and not SotGlp(None).validation
    assert SotGlp(None, ensemble=True).validation == "method.ensemble"
    with pytest.raises(InputError, match="matching=uniform knows no ε"):
        SotGlp(None, validated_epsilon=True, matching="uniform")


def test_weight_decay_leaves_a_learned_weight_alone():
    params = {"log_fusion": jnp.log(0.25), "global_prompts": jnp.ones(3)}
    optimizer = sgd(0.9, 0.01, SotGlp.decay)
    nothing = {name: jnp.zeros_like(x) for name, x in params.items()}
    direction, _ = optimizer.update(nothing, optimizer.init(params), params)
    assert direction["log_fusion"] == 0 and (direction["global_prompts"] > 0).all()
