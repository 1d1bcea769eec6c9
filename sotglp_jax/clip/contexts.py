"""Class names in contexts, through the text tower.

Attention is causal: [SOS] and the context that all classes have before their names are the same for
all of them, and so they run through the tower once a pass.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from sotglp_jax.clip.packing import Names, PackedClasses
from sotglp_jax.clip.text import Branch, TextTransformer


@struct.dataclass
class Contexts:
    """What is put into class names; None where there is nothing of a kind.

    Attributes:
      shared: contexts of all classes.
      own: contexts of each class, at the places of d devices and g passes.
      deep: what replaces the shared one's states, see `TextTransformer.branches`.
      before: tokens of a context that stand before the name.
      places: the same for each shared context where they differ; None where they do not.
    """

    shared: Float[Array, "N M Dt"] | None
    own: Float[Array, "d g c n M Dt"] | None
    deep: Float[Array, "k M Dt"] | None
    before: int = struct.field(pytree_node=False)
    places: Int[Array, " N"] | None = None


def encode(
    tower: TextTransformer, params: dict, classes: PackedClasses, contexts: Contexts
) -> Float[Array, "C N+n D"]:
    """Text features of every class in every context, not normalised, in the classes' order.

    Names that are packed for several devices are divided over the axis "data" of the mesh that
    `jax.set_mesh` has set. Where a device has several passes, what one computed is computed again
    in the backward pass instead of being kept.

    Args:
      tower: the text tower.
      params: its weights.
      classes: the names.
      contexts: what is put into them.
    """

    def on_device(params, start, contexts, names):
        return _on_device(partial(tower.apply, {"params": params}), start, contexts, names)

    if classes.devices > 1:
        whole, divided = PartitionSpec(), PartitionSpec("data")
        given = Contexts(whole, divided, whole, contexts.before, whole)
        specs = (whole, whole, given, divided)
        on_device = jax.shard_map(on_device, in_specs=specs, out_specs=divided, check_vma=False)
    return on_device(params, classes.start, contexts, classes.names)[classes.places]


def _on_device(apply, start, contexts: Contexts, names) -> Float[Array, "r N+n D"]:
    """The features at all places of one device."""
    own, names = jax.tree.map(lambda x: x[0], (contexts.own, names))
    passes = names[0].ids.shape[0]

    def encode_pass(own, names):
        return _encode_pass(apply, start, contexts.replace(own=own), names)

    if passes == 1:
        return encode_pass(*jax.tree.map(lambda x: x[0], (own, names)))
    features = jax.lax.map(lambda args: jax.checkpoint(encode_pass)(*args), (own, names))
    return features.reshape(-1, *features.shape[2:])


def _encode_pass(
    apply, start, contexts: Contexts, names: tuple[Names, ...]
) -> Float[Array, "c N+n D"]:
    """One pass's classes, sorted by length."""
    shared, own, before = contexts.shared, contexts.own, contexts.before
    embed = partial(apply, method="embed")
    cuts = np.cumsum([len(name.eot) for name in names])
    words = [embed(name.ids) for name in names]
    trunk, kinds = embed(start)[None, None], []
    if contexts.places is not None:  # nothing but [SOS] is the same for all classes
        kinds.append((jnp.broadcast_to(shared, (cuts[-1], *shared.shape)), 1))
        shared, before = None, contexts.places
    if shared is not None:
        sos = jnp.broadcast_to(trunk, (len(shared), 1, trunk.shape[-1]))
        trunk = jnp.concatenate([sos, shared[:, :before]], axis=1) if before else trunk
        kinds.append((jnp.broadcast_to(shared, (cuts[-1], *shared.shape)), trunk.shape[1]))
    if own is not None:
        kinds.append((own, 1))
    if not kinds:
        kinds.append((jnp.zeros((cuts[-1], 1, 0, trunk.shape[-1])), 1))
    branches = [
        _branch(context, name, embedded, start, before)
        for rows, start in kinds
        for context, name, embedded in zip(jnp.split(rows, cuts[:-1]), names, words, strict=True)
    ]
    features = apply(trunk, branches, contexts.deep, method="branches")
    of_kinds = (features[i : i + len(names)] for i in range(0, len(features), len(names)))
    return jnp.concatenate([jnp.concatenate(x) for x in of_kinds], axis=1)


def _branch(
    context: Float[Array, "c n M Dt"],
    name: Names,
    words: Float[Array, "c L Dt"],
    start: int,
    before: int | Int[Array, " n"],
) -> Branch:
    """Names and what the trunk's first `start` tokens lack of their contexts."""
    _, n, m, _ = context.shape
    words = jnp.broadcast_to(words[:, None], (len(words), n, *words.shape[1:]))
    if not isinstance(before, int):
        whole = _insert(words, context, name.split, before)
        return Branch(whole, name.eot + m + 1 - start, start)
    if before < m:
        words = _insert(words, context[:, :, before:], name.split)
    whole = jnp.concatenate([context[:, :, start - 1 : before], words], axis=2)
    return Branch(whole, name.eot + m + 1 - start, start)


def _insert(
    words: Float[Array, "c n L Dt"],
    context: Float[Array, "c n K Dt"],
    split: Int[Array, " c"],
    before: Int[Array, " n"] | int = 0,
) -> Float[Array, "c n L+K Dt"]:
    """Puts the first `split` words behind the first `before` tokens of a context."""
    length, k = words.shape[2], context.shape[2]
    t, split, before = jnp.arange(length + k), split[:, None, None], jnp.asarray(before)
    before = before.reshape(1, -1, 1)
    order = jnp.where(t < split + k, length + t - split, t - k)
    order = jnp.where(t < before + split, t - before, order)
    order = jnp.where(t < before, length + t, order)
    both = jnp.concatenate([words, context], axis=2)
    return jnp.take_along_axis(both, order[..., None], axis=2)
