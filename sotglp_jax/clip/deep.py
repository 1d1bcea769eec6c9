"""Deep prompts: learned vectors that replace a tower's states before its layers."""

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from sotglp_jax.errors import InputError


@struct.dataclass
class Deep:
    """What replaces the prompt states before one layer.

    Attributes:
      prompts: the new states.
      active: False where the states flow on.
    """

    prompts: Float[Array, "n W"]
    active: Bool[Array, ""]

    def replace_states(self, states: Float[Array, "*B n W"]) -> Float[Array, "*B n W"]:
        """The states that the layer reads."""
        return jnp.where(self.active, self.prompts, states)


def by_layer(prompts: Float[Array, "k n W"] | None, layers: int) -> tuple[Deep | None, Deep | None]:
    """Deals deep prompts out to the layers: row 0 to the second one, and so on.

    Args:
      prompts: None or no rows where there are none.
      layers: of the tower.

    Returns:
      Those of all layers but the last, stacked, and those of the last.

    Raises:
      InputError: there are more prompts than layers.
    """
    if prompts is None or not len(prompts):
        return None, None
    if len(prompts) >= layers:
        raise InputError(
            f"prompts of depth {len(prompts) + 1} do not fit a tower of {layers} layers: set the "
            f"method's depth to {layers} or less."
        )
    rows = jnp.zeros((layers, *prompts.shape[1:])).at[1 : len(prompts) + 1].set(prompts)
    active = np.isin(np.arange(layers), np.arange(1, len(prompts) + 1))
    return Deep(rows[:-1], active[:-1]), Deep(rows[-1], active[-1])
