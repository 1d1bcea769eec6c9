"""The plan: marginals, limits, independence and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sotglp_jax.methods import transport


@pytest.fixture(scope="module")
def sim():
    return np.random.default_rng(0).uniform(0.1, 0.4, (3, 5, 10, 4)).astype(np.float32)


@pytest.mark.parametrize("epsilon", [0.03, 0.1, 1.0])
def test_marginals_are_uniform(sim, epsilon):
    plan = transport.plan(sim, epsilon, 100)
    np.testing.assert_allclose(plan.sum(-1), 1 / 10, atol=1e-5)
    np.testing.assert_allclose(plan.sum(-2), 1 / 4, atol=1e-5)
    assert plan.dtype == jnp.float32 and plan.shape == sim.shape


def test_a_plan_does_not_depend_on_its_neighbours(sim):
    together = transport.plan(sim, 0.1, 20)
    alone = transport.plan(sim[1, 2], 0.1, 20)
    np.testing.assert_allclose(together[1, 2], alone, atol=1e-7)


def test_permuting_patches_and_prompts_permutes_the_plan(sim):
    plan = transport.plan(sim, 0.1, 50)
    permuted = transport.plan(sim[:, :, ::-1, ::-1], 0.1, 50)
    np.testing.assert_allclose(permuted[:, :, ::-1, ::-1], plan, atol=1e-6)


def test_bf16_similarities_are_solved_in_float32(sim):
    rough = jnp.asarray(sim, jnp.bfloat16)
    exact = transport.plan(np.asarray(rough, np.float32), 0.1, 20)
    np.testing.assert_array_equal(transport.plan(rough, 0.1, 20), exact)


def test_epsilon_goes_from_a_matching_to_the_uniform_plan(sim):
    entropy = [transport.normalised_entropy(transport.plan(sim, e, 300)) for e in (0.01, 0.1, 10)]
    assert (entropy[0] < entropy[1]).all() and (entropy[1] < entropy[2]).all()
    np.testing.assert_allclose(entropy[2], 1.0, atol=1e-4)


def test_gradient_through_the_iterations_is_exact(sim):
    problem = jnp.asarray(sim[0, 0])

    def phi(s):
        return jnp.sum(transport.plan(s, 0.1, 20) * s)

    gradient = jax.grad(phi)(problem)
    direction = np.random.default_rng(1).standard_normal(problem.shape).astype(np.float32)
    step = 1e-2 * direction
    numeric = (phi(problem + step) - phi(problem - step)) / 2e-2
    assert float(jnp.sum(gradient * direction)) == pytest.approx(float(numeric), rel=5e-3)


def test_support_is_the_k_most_salient_best_first():
    saliency = np.random.default_rng(2).permutation(24).reshape(2, 6, 2).astype(np.float32)
    expected = np.argsort(-saliency, axis=1)[:, :3].swapaxes(1, 2)
    np.testing.assert_array_equal(transport.support(saliency, 3), expected)


def test_unbalanced_plans_keep_the_marginals_softly():
    sim = jax.random.uniform(jax.random.key(0), (3, 8, 4))
    balanced, nearly, soft = (transport.plan(sim, 0.1, 200, tau) for tau in (1.0, 0.999, 0.5))
    np.testing.assert_allclose(nearly, balanced, rtol=0.05)
    rows = {name: np.asarray(x.sum(-1)) for name, x in (("balanced", balanced), ("soft", soft))}
    np.testing.assert_allclose(rows["balanced"], 1 / 8, rtol=1e-4)
    assert np.abs(rows["soft"] - 1 / 8).max() > 0.01  # similar patches get more
