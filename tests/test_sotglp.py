"""The method: what moves, what stays, and what must not matter."""

import dataclasses

import clips
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sotglp_jax import clip, sharding
from sotglp_jax.clip import ImageFeatures
from sotglp_jax.clip.packing import pack
from sotglp_jax.errors import InputError
from sotglp_jax.methods import prompts
from sotglp_jax.methods.sotglp import ClassFeatures, SotGlp, keep_prompts
from sotglp_jax.state import first_state, sgd
from sotglp_jax.train import jit_step

NAMES = clips.CASE["names"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return clip.load(str(clips.write(tmp_path_factory.mktemp("clip"))))


@pytest.fixture(scope="module")
def classes(loaded):
    return pack(loaded.tokenizer(NAMES, room=4))


@pytest.fixture(scope="module")
def image(loaded):
    images = np.random.default_rng(0).standard_normal((4, 32, 32, 3), dtype=np.float32)
    towers = clip.build(loaded.arch, loaded.activation)
    return jax.jit(towers.vision.apply)({"params": loaded.params["vision"]}, images)


def method(loaded, **options):
    options = {"n_global": 4, "n_local": 2, "topk": 5, "global_dropout": 0.0} | options
    return SotGlp(clip.build(loaded.arch, loaded.activation), (5, 6, 7, 8), **options)


def loss_and_gradient(method, trainable, loaded, classes, image, labels=(0, 1, 2, 3), key=0):
    @jax.jit
    def compute(trainable, frozen, classes, image):
        labels_ = jnp.array(labels)
        sums = jax.value_and_grad(method.loss, has_aux=True)(
            trainable, frozen, classes, image, labels_, labels_ >= 0, jax.random.key(key)
        )
        return jax.tree.map(lambda x: x / jnp.sum(labels_ >= 0), sums)

    return compute(trainable, loaded.params, classes, image)


def scores(method, trainable, loaded, classes, image):
    @jax.jit
    def compute(trainable, frozen, classes, image):
        text = method.encode_classes(trainable, frozen, classes)
        return method.score(trainable, frozen, text, image)

    return compute(trainable, loaded.params, classes, image)


def test_permuting_classes_permutes_the_logits(loaded, classes, image):
    m, order = method(loaded), np.array([2, 0, 3, 1])
    trainable = m.init(jax.random.key(0), loaded.params, len(NAMES))
    plain = scores(m, trainable, loaded, classes, image)
    trainable["local_prompts"] = trainable["local_prompts"][order]
    shuffled = pack(loaded.tokenizer([NAMES[i] for i in order], room=4))
    permuted = scores(m, trainable, loaded, shuffled, image)
    for name, logits in plain.logits.items():
        np.testing.assert_allclose(permuted.logits[name], logits[:, order], atol=2e-4)


def test_chunks_change_neither_loss_nor_gradient(loaded, classes, image):
    trainable = method(loaded).init(jax.random.key(0), loaded.params, len(NAMES))
    whole = loss_and_gradient(method(loaded), trainable, loaded, classes, image)
    # 3 does not divide the 4 classes.
    chunks = pack(loaded.tokenizer(NAMES, room=4), chunk=3)
    parts = loss_and_gradient(method(loaded), trainable, loaded, chunks, image)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole, parts)


def test_a_step_moves_every_prompt_and_leaves_clip_bit_identical(loaded):
    m = method(loaded, global_dropout=0.75)
    # Without weight decay, so that only a gradient moves anything.
    optimizer, mesh = sgd(0.01, 0.9, 0.0), sharding.make_mesh()
    state = first_state(m, optimizer, loaded.params, len(NAMES), seed=0)
    frozen = jax.device_put(loaded.params)
    before = jax.tree.map(np.array, (state["trainable"], frozen))
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype(np.uint8),
        "label": (np.arange(16) % 4).astype(np.int32),
        "mask": np.ones(16, bool),
    }
    classes = sharding.put_classes(loaded.tokenizer(NAMES, room=4), mesh, chunk=0)
    state = sharding.spread_classes(state, m.per_class, classes, mesh)
    state, metrics = jit_step(mesh, m, optimizer)(state, frozen, classes, batch)
    state = sharding.collect_classes(state, m.per_class, classes)
    jax.tree.map(np.testing.assert_array_equal, frozen, before[1])
    for name, old in before[0].items():
        moved = np.abs(state["trainable"][name] - old).max(-1)
        assert (moved > 0).all(), name
    assert int(state["step"]) == 1 and np.isfinite(metrics["loss"])
    optimised = jax.tree.leaves(state["opt_state"])
    assert sum(x.size for x in optimised) == sum(x.size for x in jax.tree.leaves(before[0]))


def test_gradients_in_bf16_stay_close(tmp_path):
    wide = clip.load(str(clips.write(tmp_path / "wide", text_width=128)))
    classes = pack(wide.tokenizer(NAMES, room=4))
    rng = np.random.default_rng(0)
    image = ImageFeatures(*(rng.standard_normal(s, np.float32) for s in ((4, 64), (4, 16, 64))))
    found = []
    for dtype in (jnp.float32, jnp.bfloat16):
        m = dataclasses.replace(method(wide), towers=wide.towers(dtype))
        trainable = m.init(jax.random.key(0), wide.params, len(NAMES))
        found.append(loss_and_gradient(m, trainable, wide, classes, image)[1])
    for exact, rough in zip(*map(jax.tree.leaves, found), strict=True):
        assert np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()


def test_masked_images_do_not_count(loaded, classes, image):
    m = method(loaded)
    trainable = m.init(jax.random.key(0), loaded.params, len(NAMES))
    (masked, _), _ = loss_and_gradient(m, trainable, loaded, classes, image, (0, 1, -1, -1))
    two = jax.tree.map(lambda x: x[:2], image)
    (alone, _), _ = loss_and_gradient(m, trainable, loaded, classes, two, (0, 1))
    np.testing.assert_allclose(masked, alone, rtol=1e-5)


def test_global_dropout_keeps_one_of_four_drawn_per_image():
    picked = set()
    for seed in range(8):
        kept = np.asarray(keep_prompts(6, 4, 0.75, jax.random.key(seed)))
        assert (np.sort(kept) == [0, 0, 0, 1]).all()
        picked.add(tuple(kept.argmax(-1)))
    assert len(picked) > 1 and any(len(set(p)) > 1 for p in picked)
    assert (keep_prompts(6, 4, 0.0, jax.random.key(0)) == 0.25).all()


def test_the_plan_is_constant_for_the_gradient_unless_unrolled(loaded, classes, image):
    trainable = method(loaded).init(jax.random.key(0), loaded.params, len(NAMES))
    (_, stop), (_, unroll) = (
        loss_and_gradient(
            method(loaded, epsilon=0.02, plan_gradient=kind), trainable, loaded, classes, image
        )
        for kind in ("stop", "unroll")
    )
    assert np.abs(stop["local_prompts"] - unroll["local_prompts"]).max() > 1e-6
    np.testing.assert_allclose(stop["global_prompts"], unroll["global_prompts"], atol=1e-6)


def test_variants_have_the_trees_they_say(loaded, classes, image):
    shared = method(loaded, class_specific=False)
    tree = shared.init(jax.random.key(0), loaded.params, len(NAMES))
    assert tree["local_prompts"].shape == (2, 4, 64)
    assert scores(shared, tree, loaded, classes, image).logits["local"].shape == (4, 4)
    plain = method(loaded, projection=False)
    tree = plain.init(jax.random.key(0), loaded.params, len(NAMES))
    assert set(tree) == {"global_prompts", "local_prompts"}
    # The projection starts as the identity.
    full = method(loaded)
    other = scores(full, full.init(jax.random.key(0), loaded.params, 4), loaded, classes, image)
    np.testing.assert_allclose(
        scores(plain, tree, loaded, classes, image).logits["fused"],
        other.logits["fused"],
        atol=1e-4,
    )


def test_recipes_combine_the_branches_as_written(loaded, classes, image):
    paper, official = (
        scores(m, m.init(jax.random.key(0), loaded.params, 4), loaded, classes, image)
        for m in (
            method(loaded),
            method(loaded, fusion_weight=1.0, mean_over_prompts=True, mean_of_branches=True),
        )
    )
    g, phi = paper.logits["global"], 100 * paper.phi
    np.testing.assert_allclose(paper.logits["fused"], g + 0.25 * phi, rtol=1e-4)
    np.testing.assert_allclose(official.logits["fused"], (g + phi / 2) / 2, rtol=1e-4)


@pytest.mark.parametrize("kind", ["template", "random", "gram"])
def test_initial_local_prompts(loaded, kind):
    m = method(loaded, local_init=kind)
    local = np.array(m.init(jax.random.key(0), loaded.params, 4)["local_prompts"])
    assert local.shape == (4, 2, 4, 64) and local.dtype == np.float32
    assert np.abs(local[:, 0] - local[:, 1]).max() > 0
    if kind == "template":
        template = loaded.params["text"]["token_embedding"][[5, 6, 7, 8]]
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
    trainable = {"local_projection": jnp.eye(64)}
    assert all(
        np.isfinite(x).all()
        for x in jax.tree.leaves(m.score(trainable, loaded.params, text, image))
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


def test_a_branch_of_weight_0_has_no_say(loaded, classes, image):
    for options, alone in (({"fusion_weight": 0.0}, "global"), ({"global_weight": 0.0}, "local")):
        only = method(loaded, **options)
        trainable = only.init(jax.random.key(0), loaded.params, len(NAMES))
        logits = scores(only, trainable, loaded, classes, image).logits
        np.testing.assert_array_equal(logits["fused"].argmax(-1), logits[alone].argmax(-1))
        (_, metrics), grads = loss_and_gradient(only, trainable, loaded, classes, image)
        weight = only.global_weight or only.fusion_weight
        np.testing.assert_allclose(metrics["loss"], weight * metrics[f"loss_{alone}"], rtol=1e-6)
        other = {"global": "local_prompts", "local": "global_prompts"}[alone]
        assert not np.any(grads[other]) and np.any(grads[f"{alone}_prompts"])


def test_a_learned_fusion_leaves_the_prompts_gradients_alone(loaded, classes, image):
    fixed, learned = method(loaded), method(loaded, learn_fusion=True)
    trainable = learned.init(jax.random.key(0), loaded.params, len(NAMES))
    np.testing.assert_allclose(np.exp(trainable["log_fusion"]), learned.fusion_weight, rtol=1e-6)
    plain = {name: x for name, x in trainable.items() if name != "log_fusion"}
    (_, metrics), ours = loss_and_gradient(learned, trainable, loaded, classes, image)
    _, theirs = loss_and_gradient(fixed, plain, loaded, classes, image)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
    assert ours["log_fusion"] != 0
    np.testing.assert_allclose(metrics["fusion_weight"], learned.fusion_weight, rtol=1e-6)
    doubled = trainable | {"log_fusion": trainable["log_fusion"] + np.log(2.0)}
    a, b = (scores(learned, t, loaded, classes, image).logits for t in (trainable, doubled))
    np.testing.assert_allclose(b["fused"] - b["global"], 2 * (a["fused"] - a["global"]), atol=1e-4)
