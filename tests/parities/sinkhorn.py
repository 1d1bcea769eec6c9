"""PLOT's Sinkhorn, which stops by the mean change over all its problems."""

import jax
import jax.numpy as jnp

MOST, CHANGE = 100, 0.01


def stopped(sim, epsilon: float):
    """The plans (..., K, N) of cosines, constant for the gradient, and the iterations."""
    kernel = jax.lax.stop_gradient(jnp.exp(-(1 - sim) / epsilon))
    *_, k, n = sim.shape

    def moves(state):
        _, _, change, count = state
        return (count < MOST) & (change >= CHANGE)

    def iterate(state):
        r, c, _, count = state
        new = (1 / k) / jnp.einsum("...kn,...n->...k", kernel, c, precision="highest")
        c = (1 / n) / jnp.einsum("...kn,...k->...n", kernel, new, precision="highest")
        return new, c, jnp.abs(new - r).mean(), count + 1

    start = jnp.ones(sim.shape[:-1]), jnp.ones((*sim.shape[:-2], n)), jnp.inf, 0
    r, c, _, count = jax.lax.while_loop(moves, iterate, start)
    return jax.lax.stop_gradient(r[..., None] * kernel * c[..., None, :]), count
