"""Floating-point operations, counted by hand: 2 for a multiply and add.

XLA's own count takes the body of a scan once however often it runs. Matrix products only, the
rest is below 1 %, but for the transport, which has none.
"""

from sotglp_jax.clip import Architecture


def vision(arch: Architecture, dual: bool) -> int:
    """Operations per image of the vision tower, class token projected.

    Args:
      arch: CLIP's dimensions.
      dual: this package's forward with the V-V stream; False counts plain CLIP, every token of
        every layer.
    """
    w, t, p = arch.vision_width, arch.image_tokens, arch.patches
    ends = 2 * (p * 3 * arch.patch_size**2 * w + w * arch.embed_dim)
    layer = _layer(t, t, w, arch.vision_mlp)
    if not dual:
        return ends + arch.vision_layers * layer
    last = _layer(t, 1, w, arch.vision_mlp) + _vv(t, p, w)
    return ends + (arch.vision_layers - 1) * (layer + _vv(t, t, w)) + last


def text(arch: Architecture, length: int, sequences: int = 1, rows: int | None = None) -> int:
    """Operations of the text tower, the last layer for the EOT positions alone.

    Args:
      arch: CLIP's dimensions.
      length: of the sequences that attention runs on.
      sequences: their number.
      rows: tokens that the dense layers run on; None is all of all sequences.
    """
    w, mlp = arch.text_width, arch.text_mlp
    rows = rows or sequences * length
    inner = _dense(rows, rows, w, mlp) + _attention(sequences * length, length, w)
    last = _dense(rows, sequences, w, mlp) + _attention(sequences, length, w)
    return (arch.text_layers - 1) * inner + last + 2 * sequences * w * arch.embed_dim


def plain_text(arch: Architecture) -> int:
    """Operations per sequence of plain CLIP's text tower: the whole context, every position."""
    w, length = arch.text_width, arch.context_length
    return arch.text_layers * _layer(length, length, w, arch.text_mlp) + 2 * w * arch.embed_dim


def similarities(arch: Architecture, classes: int, n_global: int, n_local: int) -> int:
    """Operations per image from both projections to the cosines with every prompt."""
    w, d, p = arch.vision_width, arch.embed_dim, arch.patches
    projections = 2 * p * w * w + 2 * (p + 1) * w * d
    return projections + 2 * classes * d * (n_global + p * n_local)


def similarities_backward(arch: Architecture, classes: int, n_global: int, n_local: int) -> int:
    """The same for the gradients of the text features and of the local projection."""
    w, d, p = arch.vision_width, arch.embed_dim, arch.patches
    projection = 2 * p * w * w + 2 * p * w * d
    return projection + 2 * classes * d * (n_global + 2 * p * n_local)


def transport(problems: int, rows: int, columns: int, iterations: int) -> int:
    """Operations of Sinkhorn: an iteration adds, takes exponentials and sums once per half."""
    return problems * iterations * 2 * 3 * rows * columns


def _layer(tokens: int, read: int, width: int, mlp: int) -> int:
    return _dense(tokens, read, width, mlp) + _attention(read, tokens, width)


def _dense(tokens: int, read: int, width: int, mlp: int) -> int:
    """Keys and values of all tokens; queries, output and MLP of those that are read."""
    return 2 * width * (2 * tokens * width + 2 * read * width + 2 * read * mlp)


def _attention(queries: int, keys: int, width: int) -> int:
    """Q Kᵀ and A V of one sequence, or of several when `queries` counts those of all."""
    return 4 * queries * keys * width


def _vv(tokens: int, read: int, width: int) -> int:
    """V Vᵀ, A V and the output projection."""
    return _attention(read, tokens, width) + 2 * read * width**2
