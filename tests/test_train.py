"""The training loop: stages, updates, averages, and what a killed one goes on with."""

import itertools

import fakes
import jax
import numpy as np
import optax
import pytest
import runs
import steps

from sotglp_jax import clip, features, train
from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.configs import common
from sotglp_jax.devices import sharding
from sotglp_jax.run import prepare
from sotglp_jax.schedules import learning_rate

FIRST, SECOND, LAST = 4, 10, 18  # the batches at which the stages of `fakes.Staged` end
MOMENTUM, DECAY = 0.9, 0.01
pytestmark = pytest.mark.usefixtures("ended")


def make_run(clip_folder, folder, checkpoint_every=1):
    """Twenty digits in batches of eight, two an epoch."""
    config = common.get_config(f"clip={clip_folder},shots=2,method=fakes:Staged")
    config.precision, config.train.batch_size = "float32", 8
    config.train.checkpoint_every = checkpoint_every
    return prepare(config, str(folder))


@pytest.fixture(scope="module")
def states(clip_folder, tmp_path_factory):
    """Every state of a whole training, and the run."""
    saved, save = {}, Checkpoints.save

    def noted(self, step, state, meta):
        saved[step] = jax.device_get(state)
        save(self, step, state, meta)

    run = make_run(clip_folder, tmp_path_factory.mktemp("whole") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", noted)
        train.train(run)
    return saved, run


def test_a_stage_moves_what_it_names_and_nothing_else(states):
    saved, _ = states
    assert sorted(saved) == list(range(1, LAST + 1))
    for first, last, moving, still in (
        (1, FIRST, "weight", "bias"),
        (FIRST + 1, SECOND, "bias", "weight"),
        (SECOND + 1, SECOND + 2, "bias", "weight"),  # turns of a pass each
        (SECOND + 2, SECOND + 4, "weight", "bias"),
        (SECOND + 4, SECOND + 6, "bias", "weight"),
        (LAST - 2, LAST, "weight", "bias"),
    ):
        for a, b in itertools.pairwise(range(first, last + 1)):
            before, after = saved[a]["params"], saved[b]["params"]
            np.testing.assert_array_equal(before[still], after[still])
            assert (before[moving] != after[moving]).any(), (a, b)


def test_averages_are_those_of_the_parameters_after_each_epoch(states):
    saved, run = states
    stages = ((0, FIRST), (FIRST, SECOND))
    for (first, last), weights in zip(stages, fakes.Staged.average, strict=True):
        ends = [saved[step]["params"] for step in range(first + 2, last + 1, 2)]
        by_hand = jax.tree.map(
            lambda *x, w=weights: sum(np.float32(a) * b for a, b in zip(w, x, strict=True)), *ends
        )
        jax.tree.map(np.testing.assert_array_equal, saved[last]["average"], by_hand)
    np.testing.assert_array_equal(
        saved[FIRST + 1]["params"]["weight"], saved[FIRST]["average"]["weight"]
    )


def loss_of(run, params, moving, batch):
    """The loss of a batch as a function of one of the parameters."""
    image = run.method.encode_images({}, run.frozen, batch["image"])

    def loss(x):
        logits = run.method.score(params | {moving: x}, run.frozen, None, image).logits["linear"]
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return entropy.mean()

    return loss


def by_hand(run, saved, step, batch):
    """The parameters that plain SGD makes of the state before a step, a gradient at a time."""
    part = next(p for p in train.parts(run.stages, 2) if step < p.end)
    state, (moving,) = saved[step], part.stage.trained
    fresh = step == part.first
    params = state["average"] if fresh else state["params"]
    trace = 0.0 if fresh else state["opt_state"][moving][1].trace
    loss = loss_of(run, params, moving, batch)
    x, decay = params[moving], DECAY * fakes.Staged.decay.get(moving, 1.0)
    for _ in range(part.stage.updates):
        trace = MOMENTUM * trace + jax.grad(loss)(x) + decay * x
        x = x - learning_rate(part.stage, part.epoch(step)) * trace
    return params | {moving: x}


def test_by_turns_each_parameter_has_an_adam_of_its_own(states):
    saved, run = states
    m, v = (dict.fromkeys(("bias", "weight"), 0.0) for _ in range(2))
    params = saved[SECOND]["average"]
    for step in range(SECOND, LAST):
        epoch, within = divmod(step - SECOND, 4)
        moving, taken = ("bias", "weight")[within // 2], 2 * epoch + within % 2 + 1
        batch = next(features.train_batches(run, sharding.make_mesh(1), step))
        gradient = jax.grad(loss_of(run, params, moving, batch))(params[moving])
        m[moving] = 0.9 * m[moving] + 0.1 * gradient
        v[moving] = 0.999 * v[moving] + 0.001 * gradient**2
        size = m[moving] / (1 - 0.9**taken) / (np.sqrt(v[moving] / (1 - 0.999**taken)) + 1e-8)
        rate = 0.05 * (1 + np.cos(np.pi * epoch / 2))
        params = params | {moving: params[moving] - rate * size}
        for name, x in saved[step + 1]["params"].items():
            # Of a gradient near 0 Adam makes a step of full size, rounding and all.
            np.testing.assert_allclose(x, params[name], atol=1e-3)


@pytest.mark.parametrize("step", [1, 3, FIRST, FIRST + 1, SECOND - 1])
def test_a_step_is_so_many_of_sgd_and_a_stage_starts_without_momentum(states, step):
    saved, run = states
    batches = features.train_batches(run, sharding.make_mesh(1), step)
    expected = by_hand(run, saved, step, next(batches))
    for name, x in saved[step + 1]["params"].items():
        np.testing.assert_allclose(x, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("every", "kills", "latest"), [(3, (5, 11), 12), (FIRST, (5,), FIRST)])
def test_killed_and_resumed_equals_uninterrupted(
    states, clip_folder, tmp_path, ended, every, kills, latest
):
    for number in kills:
        runs.train_until_killed(make_run(clip_folder, tmp_path, every), number)
    assert Checkpoints(tmp_path).latest == latest
    train.train(make_run(clip_folder, tmp_path, every))
    jax.tree.map(np.testing.assert_array_equal, ended[-1], states[0][LAST])


@pytest.mark.parametrize(
    ("losses", "rises"),
    [
        ((2.0, 0.6, 0.9, 1.1), True),
        ((2.0, 0.6, 0.8, 0.8), False),
        ((2.0, 1.0, 0.9, 0.4, 0.9, 0.6, 0.9, 0.7), False),  # noise
        ((0.5, 0.02, 0.04, 0.05), False),
        ((1, 2), False),
    ],
)
def test_a_loss_that_ends_above_where_it_was_is_noticed(losses, rises):
    assert train.risen(losses) == rises


def test_padding_changes_nothing(clip_folder):
    loaded, rng = clip.load(str(clip_folder)), np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (3, 32, 32, 3), np.uint8), "label": np.arange(3)}
    padded = {
        "image": np.concatenate([batch["image"], batch["image"]]),
        "label": np.concatenate([batch["label"], np.full(3, -1)]),
    }
    method = fakes.Linear(loaded.towers())
    a, b = (steps.take(method, loaded, "abcd", x) for x in (batch, padded))
    for ours, theirs in ((a.after, b.after), (a.metrics, b.metrics)):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), ours, theirs
        )
    assert any((a.after[name] != a.before[name]).any() for name in a.before)
