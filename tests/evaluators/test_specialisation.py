"""Numbers of the paper's claim that prompts specialise."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from sotglp_jax.evaluators import specialisation


def test_overlap_is_the_mean_jaccard_of_the_top_three():
    sim = np.zeros((2, 8, 3), np.float32)
    sim[0, :3] = 1.0  # all prompts, the same patches
    sim[1, [0, 1, 2], 0] = sim[1, [2, 3, 4], 1] = sim[1, [5, 6, 7], 2] = 1.0
    values = specialisation.overlap(sim)
    np.testing.assert_allclose(values, [1.0, (1 / 5 + 0 + 0) / 3], rtol=1e-6)
    assert specialisation.overlap(sim[..., :1]).tolist() == [0.0, 0.0]


def test_values_are_of_each_image_and_its_labels_prompts():
    rng = np.random.default_rng(0)
    plan = rng.dirichlet(np.ones(12), (3, 2)).reshape(3, 2, 4, 3).astype(np.float32)
    sim = rng.uniform(size=(3, 8, 2, 3)).astype(np.float32)
    scores = SimpleNamespace(parts={"plan": jnp.array(plan)}, sims={"local": jnp.array(sim)})
    found = specialisation.compute(scores, jnp.array([1, 0, -1]))
    of_label = plan[[0, 1], [1, 0]]
    entropy = -(of_label * np.log(of_label)).sum((1, 2)) / np.log(12)
    np.testing.assert_allclose(found["plan_entropy"][:2], entropy, rtol=1e-5)
    share = np.stack([(of_label.argmax(-1) == n).mean(1) for n in range(3)], -1)
    np.testing.assert_allclose(found["share"][:2], share, rtol=1e-6)
    expected = specialisation.overlap(sim[[0, 1], :, [1, 0]])
    np.testing.assert_allclose(found["overlap"][:2], expected, rtol=1e-6)
    assert {x.shape for x in found.values()} == {(3,), (3, 3)}


def test_a_method_without_a_plan_or_local_cosines_has_no_such_values():
    plan, sim = np.ones((1, 2, 1, 1)), np.ones((1, 4, 2, 1))
    for parts, sims in (({}, {"local": sim}), ({"plan": plan}, {})):
        scores = SimpleNamespace(parts=parts, sims=sims)
        assert specialisation.compute(scores, np.array([0])) == {}
