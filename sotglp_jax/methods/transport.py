"""Entropic optimal transport between a class's kept patches and its local prompts (section 3.4)."""

import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sotglp_jax.devices.images import image_by_image


def plan(
    sim: Float[Array, "*problems K N"], epsilon: float, iterations: int, tau: float = 1.0
) -> Float[Array, "*problems K N"]:
    """The plan T with uniform marginals 1/K and 1/N for the cost 1 - sim (equation 9).

    Log-domain Sinkhorn (https://arxiv.org/abs/1306.0895) with a fixed number of iterations, so
    that one problem's plan does not depend on its neighbours and gradients through the iterations
    are exact.

    Args:
      sim: cosine similarities; any number of leading problem axes. Cast to float32.
      epsilon: entropic regularisation, in units of the cost. 0.1 in the paper.
      iterations: Sinkhorn iterations.
      tau: 1 keeps the marginals, as the paper does; below, they are kept softly, with penalties
        ε τ / (1 - τ) on their divergence (https://arxiv.org/abs/1607.05816).

    Returns:
      float32 plans, each summing to 1 where τ is 1.
    """
    geometry, linear_problem, sinkhorn = _import_ott()
    problems = sim.astype(jnp.float32).reshape(-1, *sim.shape[-2:])
    solver = sinkhorn.Sinkhorn(
        lse_mode=True,
        min_iterations=iterations,
        inner_iterations=iterations,
        max_iterations=iterations,
        implicit_diff=None,  # its linear solve fails in float32
    )

    def solve(sim_KxN):
        geom = geometry.Geometry(cost_matrix=1.0 - sim_KxN, epsilon=epsilon)
        return solver(linear_problem.LinearProblem(geom, tau_a=tau, tau_b=tau)).matrix

    return jax.vmap(solve)(problems).reshape(sim.shape)


def _import_ott():
    """Late, because it takes seconds that an error about the input need not wait for."""
    with warnings.catch_warnings():
        # ott imports jaxopt, which announces on import that it is no longer maintained.
        warnings.filterwarnings("ignore", "JAXopt is no longer maintained", DeprecationWarning)
        from ott.geometry import geometry
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import sinkhorn
    return geometry, linear_problem, sinkhorn


def support(saliency: Float[Array, "B P *C"], k: int) -> Int[Array, "B *C k"]:
    """Indices of the k most salient patches per image and class, best first (equation 8)."""
    return image_by_image(lambda x: jax.lax.top_k(jnp.moveaxis(x, 1, -1), k)[1], saliency)


def normalised_entropy(plans: Float[Array, "... K N"]) -> Float[Array, "..."]:
    """-Σ T log T / log(K N): 1 for the uniform plan, log(max(K, N)) / log(K N) for a matching."""
    size = plans.shape[-2] * plans.shape[-1]
    entropy = -jnp.sum(jax.scipy.special.xlogy(plans, plans), axis=(-2, -1))
    return entropy / jnp.log(max(size, 2))
