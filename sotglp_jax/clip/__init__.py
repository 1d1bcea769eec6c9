"""The frozen foundation: CLIP's two towers, its tokenizer, and how they are loaded."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from sotglp_jax.clip import config, contexts, hub, packing, weights
from sotglp_jax.clip.config import MEAN, STD, Stated
from sotglp_jax.clip.layers import ACTIVATIONS
from sotglp_jax.clip.packing import PackedClasses
from sotglp_jax.clip.text import TextTransformer
from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.clip.vision import VisionTransformer
from sotglp_jax.clip.weights import Architecture
from sotglp_jax.errors import InputError

__all__ = [
    "Architecture",
    "Clip",
    "Towers",
    "build",
    "load",
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

    def normalise(self, pixels: UInt8[Array, "B R R 3"]) -> Float[Array, "B R R 3"]:
        """Pixels to the vision tower's input, float32."""
        return (pixels.astype(jnp.float32) / 255.0 - jnp.array(self.mean)) / jnp.array(self.std)

    def images(
        self,
        frozen: dict,
        pixels: UInt8[Array, "B R R 3"],
        *,
        local: str = "",
        leak: bool = False,
        prompts: Float[Array, "J n W"] | None = None,
    ) -> dict[str, Float[Array, "B ..."]]:
        """Image features before projection; see `VisionTransformer` for the options.

        Args:
          frozen: weights, as in `Clip.params`.
          pixels: RGB.
          local: "", "vv", "tokens" or "value".
          leak: the official SOT-GLP's addition to the V-V stream.
          prompts: tokens behind the patches, one row a layer.

        Returns:
          "cls" (B W), the class token, and with `local` "patches" (B P W).
        """
        weights_, images = {"params": frozen["vision"]}, self.normalise(pixels)
        return self.vision.apply(weights_, images, local=local, leak=leak, prompts=prompts)

    def project(self, frozen: dict, features: Float[Array, "... W"]) -> Float[Array, "... D"]:
        """CLIP's frozen projection of image features into the joint space, in full float32."""
        return self.vision.apply({"params": frozen["vision"]}, features, method="project")

    def embed(self, frozen: dict, ids: Int[Array, "..."]) -> Float[Array, "... Dt"]:
        """Token embeddings of the text tower, without positions."""
        return self.text.apply({"params": frozen["text"]}, ids, method="embed")

    def texts(
        self,
        frozen: dict,
        names: PackedClasses,
        shared: Float[Array, "N M Dt"] | None = None,
        own: Float[Array, "C n M Dt"] | None = None,
        *,
        before: int | Int[Array, " N"] | None = None,
        deep: Float[Array, "k M Dt"] | None = None,
    ) -> Float[Array, "C N+n D"]:
        """Text features of [SOS] context name [EOT] for every context, in the classes' order.

        Not normalised. Names that are packed for several devices are divided over the axis "data"
        of the mesh that `jax.set_mesh` has set.

        Args:
          frozen: weights, as in `Clip.params`.
          names: class names or whole sentences, laid out by `packing.pack`.
          shared: contexts of all classes; without them and `own`, (C, 1, D) of the names alone.
          own: contexts of each class.
          before: tokens of a context that stand before the name, None for all. The others stand
            behind the first `Tokens.split` tokens of the name. An array has a number for each of
            the shared contexts, of which nothing is then computed for all classes at once.
          deep: row j - 1 replaces the states of the context before layer j; needs a single shared
            context that stands before the name.

        Raises:
          InputError: `deep` has as many rows as there are layers, or more.
          ValueError: `deep` does not fit the contexts.
        """
        m = next((x.shape[-2] for x in (shared, own) if x is not None), 0)
        places = None if before is None or isinstance(before, int) else before
        before = m if before is None or places is not None else before
        if deep is not None and (
            own is not None or shared is None or len(shared) > 1 or before < m
        ):
            raise ValueError("deep prompts need a single shared context, all before the name.")
        own = None if own is None else packing.deal(own, names)
        given = contexts.Contexts(shared, own, deep, before, places)
        return contexts.encode(self.text, frozen["text"], names, given)


@dataclasses.dataclass(frozen=True)
class Clip:
    """A loaded CLIP.

    Attributes:
      arch: its dimensions.
      activation: "quick_gelu" or "gelu".
      stated: what its config says of pixels and layer norms.
      source: where its activation and heads are from, in words.
      path: the absolute path of its folder or file, "" where it is known by name.
      params: {"vision": ..., "text": ..., "logit_scale": ()}, float32 numpy arrays.
      tokenizer: the tokenizer that belongs to the weights.
    """

    arch: Architecture
    activation: str
    stated: Stated
    source: str
    path: str
    params: dict
    tokenizer: Tokenizer

    @property
    def fingerprint(self) -> str:
        """What tells it from other CLIPs, see `weights.fingerprint`."""
        return weights.fingerprint(self.params, self.stated)

    def towers(self, dtype: jnp.dtype = jnp.float32) -> Towers:
        """Its modules, whose matrix products run in `dtype`."""
        return build(self.arch, self.activation, dtype, self.stated)


def build(
    arch: Architecture,
    activation: str,
    dtype: jnp.dtype = jnp.float32,
    stated: Stated | None = None,
) -> Towers:
    """The modules of a CLIP of these dimensions, whose matrix products run in `dtype`.

    Of what its config states, the layer norms and the pixels' statistics are taken.
    """
    stated = stated or Stated()
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
        epsilon=stated.vision_epsilon,
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
        epsilon=stated.text_epsilon,
    )
    return Towers(vision, text, stated.mean, stated.std)


def shapes(arch: Architecture) -> dict:
    """The tree of `Clip.params` with shapes instead of arrays."""
    towers = build(arch, "gelu")
    key = jax.random.key(0)
    images = jnp.zeros((1, arch.image_size, arch.image_size, 3))
    embeddings = jnp.zeros((1, 8, arch.text_width))
    vision = jax.eval_shape(towers.vision.init, key, images)["params"]
    text = jax.eval_shape(towers.text.init, key, embeddings, jnp.zeros(1, int))["params"]
    return {"vision": vision, "text": text, "logit_scale": jax.ShapeDtypeStruct((), jnp.float32)}


def load(name: str, activation: str = "", heads: Sequence[int] = ()) -> Clip:
    """Loads a CLIP by name or path.

    Args:
      name: see `hub.find`.
      activation: "quick_gelu" or "gelu" to set it; "" takes it from the weights' source.
      heads: numbers of heads of the vision and the text tower to set them; () takes them from the
        weights' source.

    Raises:
      InputError: the weights, the tokenizer or the config cannot be used; says why.
    """
    files = hub.find(name)
    stated = config.parse(files.config)
    if heads:
        of_vision, of_text = heads
        stated = dataclasses.replace(stated, vision_heads=of_vision, text_heads=of_text)
    tensors = weights.load(files.weights)
    layout = weights.layout_of(tensors)
    arch = weights.architecture(tensors, layout, stated)
    source = files.source or _without_config(files, tensors, arch, bool(activation and heads))
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
    local = Path(name).expanduser()
    path = str(local.absolute()) if name != "tiny" and local.exists() else ""
    return Clip(arch, activation, stated, source, path, params, tokenizer)


def _without_config(
    files: hub.ClipFiles, tensors: dict, arch: Architecture, set_by_hand: bool
) -> str:
    """Where activation and heads are from if no config says them.

    Raises:
      InputError: nothing says them, and a wrong guess would look like a worse CLIP.
    """
    if set_by_hand:
        return "activation and heads as set"
    if files.weights[0].suffix == ".pt" or weights.are_openai(tensors, arch):
        return "no config beside the weights, which are OpenAI's by their sizes and numbers"
    raise InputError(
        f"{files.weights[0]} has no open_clip_config.json or config.json beside it, so its "
        "activation and heads are not known: put the one there that its hub repository has, or set "
        "--config.clip.activation and --config.clip.heads=(VISION,TEXT)."
    )
