"""The method: what moves, what stays, and what must not matter."""

import dataclasses
import functools

import clips
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import steps

from sotglp_jax import clip
from sotglp_jax.clip.packing import pack
from sotglp_jax.errors import InputError
from sotglp_jax.methods import prompts
from sotglp_jax.methods.contract import Moment, masked_mean
from sotglp_jax.methods.prompts import keep_prompts
from sotglp_jax.methods.sotglp import ClassFeatures, SotGlp
from sotglp_jax.methods.zeroshot import ZeroShot
from sotglp_jax.optimizers import sgd

NAMES = clips.CASE["names"]
CONTEXT = "a b c d"  # four tokens to a tokenizer of single letters


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return clip.load(str(clips.write(tmp_path_factory.mktemp("clip"))))


@pytest.fixture(scope="module")
def names(loaded):
    return packed(loaded, NAMES)


@pytest.fixture(scope="module")
def image(loaded):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    return jax.jit(method(loaded).encode_images)({}, loaded.params, pixels)


def packed(loaded, names, chunk=0):
    of_ensemble = method(loaded, ensemble=True)
    tokens = of_ensemble.tokenize(loaded.tokenizer, tuple(names), "{}")
    plain = {"names": pack(tokens["zero_shot"]["names"], chunk=chunk)}
    context = np.array([5, 6, 7, 8], np.int32)
    return {"names": pack(tokens["names"], chunk=chunk), "context": context, "zero_shot": plain}


def method(loaded, **options):
    options = {"n_global": 4, "n_local": 2, "topk": 5, "global_dropout": 0.0} | options
    return SotGlp(loaded.towers(), context=CONTEXT, **options)


def start(method, loaded, names):
    return method.init(jax.random.key(0), loaded.params, names)


def loss_and_gradient(method, params, loaded, names, image, labels=(0, 1, 2, 3)):
    return _loss_and_gradient(method, labels, params, loaded.params, names, image)


@functools.partial(jax.jit, static_argnums=(0, 1))  # equal methods share a program
def _loss_and_gradient(method, labels, params, frozen, names, image):
    def objective(params):
        text = method.encode_classes(params, frozen, names)
        of = jnp.array(labels)
        moment = Moment(jax.random.key(0), jnp.int32(0), jnp.int32(0))
        values, metrics = method.loss(params, frozen, text, image, of, moment)
        means = {k: masked_mean(x, of) for k, x in ({"loss": values} | metrics).items()}
        return means["loss"], means

    return jax.value_and_grad(objective, has_aux=True)(params)


def scores(method, params, loaded, names, image):
    return _scores(method, params, loaded.params, names, image)


@functools.partial(jax.jit, static_argnums=0)
def _scores(method, params, frozen, names, image):
    return method.score(params, frozen, method.encode_classes(params, frozen, names), image)


def test_permuting_classes_permutes_the_logits(loaded, names, image):
    m, order = method(loaded), np.array([2, 0, 3, 1])
    params = start(m, loaded, names)
    plain = scores(m, params, loaded, names, image)
    params["local_prompts"] = params["local_prompts"][order]
    shuffled = packed(loaded, [NAMES[i] for i in order])
    permuted = scores(m, params, loaded, shuffled, image)
    for name, logits in plain.logits.items():
        np.testing.assert_allclose(permuted.logits[name], logits[:, order], atol=2e-4)


def test_chunks_change_neither_loss_nor_gradient(loaded, names, image):
    params = start(method(loaded), loaded, names)
    whole = loss_and_gradient(method(loaded), params, loaded, names, image)
    chunks = packed(loaded, NAMES, chunk=3)  # 3 does not divide the 4 classes
    parts = loss_and_gradient(method(loaded), params, loaded, chunks, image)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole, parts)


def test_a_step_moves_every_prompt_and_leaves_clip_bit_identical(loaded):
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype(np.uint8),
        "label": (np.arange(16) % 4).astype(np.int32),
    }
    # Without weight decay, so that only a gradient moves anything.
    optimizer, stage = sgd(0.9, 0.0), dataclasses.replace(steps.STAGE, lr=0.01)
    m = method(loaded, global_dropout=0.75)
    step = steps.take(m, loaded, NAMES, batch, optimizer=optimizer, stage=stage)
    jax.tree.map(np.testing.assert_array_equal, step.frozen, loaded.params)
    for name, old in step.before.items():
        moved = np.abs(step.after[name] - old).max(-1)
        assert (moved > 0).all(), name
    assert int(step.state["step"]) == 1 and np.isfinite(step.metrics["loss"])
    optimised = jax.tree.leaves(step.state["opt_state"])
    assert sum(x.size for x in optimised) == sum(x.size for x in jax.tree.leaves(step.before))


def test_gradients_in_bf16_stay_close(tmp_path):
    wide = clip.load(str(clips.write(tmp_path / "wide", text_width=128)))
    names, rng = packed(wide, NAMES), np.random.default_rng(0)
    image = {"cls": (4, 64), "patches": (4, 16, 64)}
    image = {name: rng.standard_normal(shape, np.float32) for name, shape in image.items()}
    found = []
    for dtype in (jnp.float32, jnp.bfloat16):
        m = dataclasses.replace(method(wide), towers=wide.towers(dtype))
        found.append(loss_and_gradient(m, start(m, wide, names), wide, names, image)[1])
    for exact, rough in zip(*map(jax.tree.leaves, found), strict=True):
        assert np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()


def test_masked_images_do_not_count(loaded, names, image):
    m = method(loaded)
    params = start(m, loaded, names)
    (masked, _), _ = loss_and_gradient(m, params, loaded, names, image, (0, 1, -1, -1))
    two = jax.tree.map(lambda x: x[:2], image)
    (alone, _), _ = loss_and_gradient(m, params, loaded, names, two, (0, 1))
    np.testing.assert_allclose(masked, alone, rtol=1e-5)


def test_global_dropout_keeps_one_of_four_drawn_per_image():
    picked = set()
    for seed in range(8):
        kept = np.asarray(keep_prompts(6, 4, 0.75, jax.random.key(seed)))
        assert (np.sort(kept) == [0, 0, 0, 1]).all()
        picked.add(tuple(kept.argmax(-1)))
    assert len(picked) > 1 and any(len(set(p)) > 1 for p in picked)
    assert (keep_prompts(6, 4, 0.0, jax.random.key(0)) == 0.25).all()


def test_the_plan_is_constant_for_the_gradient_unless_unrolled(loaded, names, image):
    params = start(method(loaded), loaded, names)
    (_, stop), (_, unroll) = (
        loss_and_gradient(
            method(loaded, epsilon=0.02, plan_gradient=kind), params, loaded, names, image
        )
        for kind in ("stop", "unroll")
    )
    assert np.abs(stop["local_prompts"] - unroll["local_prompts"]).max() > 1e-6
    np.testing.assert_allclose(stop["global_prompts"], unroll["global_prompts"], atol=1e-6)


def test_variants_have_the_trees_they_say(loaded, names, image):
    shared = method(loaded, class_specific=False)
    tree = start(shared, loaded, names)
    assert tree["local_prompts"].shape == (2, 4, 64)
    assert scores(shared, tree, loaded, names, image).logits["local"].shape == (4, 4)
    plain = method(loaded, projection=False)
    tree = start(plain, loaded, names)
    assert set(tree) == {"global_prompts", "local_prompts"}
    # The projection starts as the identity.
    full = method(loaded)
    other = scores(full, start(full, loaded, names), loaded, names, image)
    np.testing.assert_allclose(
        scores(plain, tree, loaded, names, image).logits["fused"],
        other.logits["fused"],
        atol=1e-4,
    )


def test_recipes_combine_the_branches_as_written(loaded, names, image):
    paper, official = (
        scores(m, start(m, loaded, names), loaded, names, image)
        for m in (
            method(loaded),
            method(loaded, fusion_weight=1.0, mean_over_prompts=True, mean_of_branches=True),
        )
    )
    g, phi = paper.logits["global"], 100 * paper.parts["phi"]
    np.testing.assert_allclose(paper.logits["fused"], g + 0.25 * phi, rtol=1e-4)
    np.testing.assert_allclose(official.logits["fused"], (g + phi / 2) / 2, rtol=1e-4)


@pytest.mark.parametrize("kind", ["template", "random", "gram"])
def test_initial_local_prompts(loaded, names, kind):
    m = method(loaded, local_init=kind)
    local = np.array(start(m, loaded, names)["local_prompts"])
    assert local.shape == (4, 2, 4, 64) and local.dtype == np.float32
    assert np.abs(local[:, 0] - local[:, 1]).max() > 0
    if kind == "template":
        template = loaded.params["text"]["token_embedding"][names["context"]]
        assert np.abs(local - template).std() < 0.2 * template.std()
    if kind == "random":
        bound = np.sqrt(6 / (2 * 4 * 64 + 4 * 4 * 64))
        assert 0.98 * bound < np.abs(local).max() <= bound
    if kind == "gram":
        gram = np.einsum("cnmd,ckmd->cmnk", local, local) / prompts.GRAM_SCALE**2
        np.testing.assert_allclose(gram, np.broadcast_to(np.eye(2), gram.shape), atol=1e-5)


def test_topk_above_the_patches_is_refused(loaded):
    assert method(loaded, topk=16).topk == 16
    with pytest.raises(InputError, match="topk=17 .* than the 16"):
        method(loaded, topk=17)


def test_scores_are_finite_for_one_class_and_one_prompt(loaded, image):
    m = dataclasses.replace(method(loaded), n_local=1, topk=1)
    text = ClassFeatures(jnp.ones((1, 4, 32)), jnp.ones((1, 1, 32)))
    params = {"local_projection": jnp.eye(64)}
    assert all(
        np.isfinite(x).all() for x in jax.tree.leaves(m.score(params, loaded.params, text, image))
    )


@pytest.fixture(scope="module")
def sim_local():
    return np.random.default_rng(1).uniform(-0.2, 0.5, (2, 16, 3, 2)).astype(np.float32)


def test_without_transport_phi_is_the_mean_over_the_support(loaded, sim_local):
    support, plan, phi = method(loaded, matching="uniform").match(sim_local)
    for b, c in np.ndindex(2, 3):
        np.testing.assert_array_equal(
            support[b, c], np.argsort(-sim_local[b, :, c].mean(-1), kind="stable")[:5]
        )
        np.testing.assert_allclose(phi[b, c], sim_local[b, support[b, c], c].mean(), rtol=1e-5)
    np.testing.assert_allclose(plan, 1 / 10)


def test_independent_prompts_have_their_own_patches(loaded, sim_local):
    support, _, phi = method(loaded, matching="independent").match(sim_local)
    assert support.shape == (2, 3, 5, 2)
    own = -np.sort(-sim_local, axis=1)[:, :5]
    np.testing.assert_allclose(phi, own.mean((1, 3)), rtol=1e-5)
    for b, c, n in np.ndindex(2, 3, 2):
        np.testing.assert_array_equal(
            support[b, c, :, n], np.argsort(-sim_local[b, :, c, n], kind="stable")[:5]
        )


def test_topk_0_keeps_all_patches(loaded, sim_local):
    support, plan, _ = method(loaded, topk=0).match(sim_local)
    assert plan.shape == (2, 3, 16, 2) and set(np.asarray(support[0, 0])) == set(range(16))
    whole = method(loaded, topk=16).match(sim_local)
    np.testing.assert_array_equal(phi := method(loaded, topk=0).match(sim_local)[2], whole[2])
    np.testing.assert_allclose(
        method(loaded, topk=0, matching="uniform").match(sim_local)[2],
        (sim_local.mean((1, 3))),
        rtol=1e-4,
    )
    assert np.isfinite(phi).all()


def test_an_ensemble_adds_the_logits_of_zero_shot_clip(loaded, names, image):
    alone, m = method(loaded), method(loaded, ensemble=True)
    params = start(alone, loaded, names)
    plain = scores(ZeroShot(m.towers), {}, loaded, names["zero_shot"], image)
    learned = scores(alone, params, loaded, names, image).logits
    both = scores(m, params | {"ensemble": np.float32([0.5, 2])}, loaded, names, image).logits
    expected = 0.5 * learned["fused"] + 2 * plain.logits["zero_shot"]
    np.testing.assert_allclose(both["fused"], expected, atol=2e-4)
    np.testing.assert_allclose(both["local"], learned["local"], atol=2e-4)
    step = jax.eval_shape(lambda: m.encode_step(params, loaded.params, names, None))
    assert step.zero_shot is None  # which no loss sees


def test_a_chosen_epsilon_is_that_of_the_plan(loaded, names, image):
    params = start(method(loaded), loaded, names)
    chosen = scores(method(loaded), params | {"epsilon": np.float32(0.01)}, loaded, names, image)
    expected = scores(method(loaded, epsilon=0.01), params, loaded, names, image)
    np.testing.assert_allclose(chosen.parts["plan"], expected.parts["plan"], rtol=1e-4)
    usual = scores(method(loaded), params, loaded, names, image)
    assert np.abs(chosen.parts["plan"] - usual.parts["plan"]).max() > 1e-3


def test_a_branch_of_weight_0_has_no_say(loaded, names, image):
    for options, alone in (({"fusion_weight": 0.0}, "global"), ({"global_weight": 0.0}, "local")):
        only = method(loaded, **options)
        params = start(only, loaded, names)
        logits = scores(only, params, loaded, names, image).logits
        np.testing.assert_array_equal(logits["fused"].argmax(-1), logits[alone].argmax(-1))
        (_, metrics), grads = loss_and_gradient(only, params, loaded, names, image)
        weight = only.global_weight or only.fusion_weight
        np.testing.assert_allclose(metrics["loss"], weight * metrics[f"loss_{alone}"], rtol=1e-6)
        other = {"global": "local_prompts", "local": "global_prompts"}[alone]
        assert not np.any(grads[other]) and np.any(grads[f"{alone}_prompts"])


def test_a_learned_fusion_leaves_the_prompts_gradients_alone(loaded, names, image):
    fixed, learned = method(loaded), method(loaded, fusion="learned")
    params = start(learned, loaded, names)
    np.testing.assert_allclose(np.exp(params["log_fusion"]), learned.fusion_weight, rtol=1e-6)
    plain = {name: x for name, x in params.items() if name != "log_fusion"}
    (_, metrics), ours = loss_and_gradient(learned, params, loaded, names, image)
    _, theirs = loss_and_gradient(fixed, plain, loaded, names, image)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
    assert ours["log_fusion"] != 0
    np.testing.assert_allclose(metrics["fusion_weight"], learned.fusion_weight, rtol=1e-6)
    doubled = params | {"log_fusion": params["log_fusion"] + np.log(2.0)}
    a, b = (scores(learned, t, loaded, names, image).logits for t in (params, doubled))
    np.testing.assert_allclose(b["fused"] - b["global"], 2 * (a["fused"] - a["global"]), atol=1e-4)
