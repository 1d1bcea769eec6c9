"""The frozen foundation: CLIP's two towers, its tokenizer, and how they are loaded."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from sotglp_jax.clip import config, hub, weights
from sotglp_jax.clip.config import MEAN, STD
from sotglp_jax.clip.layers import ACTIVATIONS
from sotglp_jax.clip.text import TextTransformer
from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.clip.vision import ImageFeatures, VisionTransformer
from sotglp_jax.clip.weights import Architecture
from sotglp_jax.errors import InputError

__all__ = [
    "Architecture",
    "Clip",
    "ImageFeatures",
    "Towers",
    "build",
    "load",
    "normalise",
    "shapes",
]


@dataclasses.dataclass(frozen=True)
class Towers:
    """The two modules, without weights; hashable, so it may be a static argument.

    Attributes:
      vision: the vision tower.
      text: the text tower.
      mean: pixel mean per channel, RGB in [0, 1].
      std: pixel standard deviation per channel.
    """

    vision: VisionTransformer
    text: TextTransformer
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def normalise(self, images: UInt8[Array, "B R R 3"]) -> Float[Array, "B R R 3"]:
        """Pixels to the vision tower's input, float32."""
        return (images.astype(jnp.float32) / 255.0 - jnp.array(self.mean)) / jnp.array(self.std)


@dataclasses.dataclass(frozen=True)
class Clip:
    """A loaded CLIP.

    Attributes:
      arch: its dimensions.
      activation: "quick_gelu" or "gelu".
      mean: pixel mean per channel.
      std: pixel standard deviation per channel.
      params: {"vision": ..., "text": ..., "logit_scale": ()}, float32 numpy arrays.
      tokenizer: the tokenizer that belongs to the weights.
    """

    arch: Architecture
    activation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    params: dict
    tokenizer: Tokenizer

    def towers(self, dtype: jnp.dtype = jnp.float32, **options) -> Towers:
        """Its modules; options as in `build`."""
        towers = build(self.arch, self.activation, dtype, **options)
        return dataclasses.replace(towers, mean=self.mean, std=self.std)


def build(
    arch: Architecture,
    activation: str,
    dtype: jnp.dtype = jnp.float32,
    *,
    vv: bool = True,
    vv_first_layer_leak: bool = False,
) -> Towers:
    """The modules of a CLIP of these dimensions; options as in the modules' docstrings."""
    vision = VisionTransformer(
        patch_size=arch.patch_size,
        tokens=arch.image_tokens,
        width=arch.vision_width,
        layers=arch.vision_layers,
        heads=arch.vision_heads,
        mlp_width=arch.vision_mlp,
        embed_dim=arch.embed_dim,
        activation=activation,
        dtype=dtype,
        vv=vv,
        vv_first_layer_leak=vv_first_layer_leak,
    )
    text = TextTransformer(
        vocab_size=arch.vocab_size,
        context_length=arch.context_length,
        width=arch.text_width,
        layers=arch.text_layers,
        heads=arch.text_heads,
        mlp_width=arch.text_mlp,
        embed_dim=arch.embed_dim,
        activation=activation,
        dtype=dtype,
    )
    return Towers(vision, text)


def shapes(arch: Architecture) -> dict:
    """The tree of `Clip.params` with shapes instead of arrays."""
    towers = build(arch, "gelu")
    key = jax.random.key(0)
    images = jnp.zeros((1, arch.image_size, arch.image_size, 3))
    embeddings = jnp.zeros((1, 8, arch.text_width))
    vision = jax.eval_shape(towers.vision.init, key, images)["params"]
    text = jax.eval_shape(towers.text.init, key, embeddings, jnp.zeros(1, int))["params"]
    return {"vision": vision, "text": text, "logit_scale": jax.ShapeDtypeStruct((), jnp.float32)}


def load(name: str, activation: str = "") -> Clip:
    """Loads a CLIP by name or path.

    Args:
      name: see `hub.find`.
      activation: "quick_gelu" or "gelu" to set it; "" takes it from the weights' source.

    Raises:
      InputError: the weights, the tokenizer or the activation cannot be used; says why.
    """
    files = hub.find(name)
    stated = config.parse(files.config)
    tensors = weights.read(files.weights)
    layout = weights.layout_of(tensors)
    arch = weights.architecture(tensors, layout, stated)
    activation = activation or stated.activation
    if activation not in ACTIVATIONS:
        raise InputError(
            f"activation {activation} of {name} is not supported: set --config.clip.activation to "
            f"one of {', '.join(ACTIVATIONS)}."
        )
    params = weights.port(tensors, layout, shapes(arch), arch)
    tokenizer = Tokenizer(files.tokenizer, arch.context_length)
    if tokenizer.vocab_size > arch.vocab_size:
        raise InputError(
            f"{files.tokenizer} has {tokenizer.vocab_size} tokens but the weights have "
            f"{arch.vocab_size}: put the tokenizer.json that belongs to them beside the weights."
        )
    return Clip(arch, activation, stated.mean, stated.std, params, tokenizer)
