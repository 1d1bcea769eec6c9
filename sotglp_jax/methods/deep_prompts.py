"""Prompts at the input and in the deeper layers of the towers, which several methods share."""

from collections.abc import Callable

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sotglp_jax.clip import Towers
from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import Scores, accuracies, at_least, readable

WORDS = ("a", "photo", "of", "a")
SPREAD = 0.02  # standard deviation of a random start
# The authors' checkpoints hold the frozen CLIP too, and PromptSRC's its teacher.
TORCH_UNUSED = (
    r"((prompt_learner\.ZS_)?image_encoder|text_encoder)\.(?!.*VPT).+|logit_scale|"
    r"prompt_learner\.token_(prefix|suffix)"
)


def torch_rows(first: str, others: str, start: int = 1) -> Callable[[int], str]:
    """Names of a parameter's rows in PyTorch: the first one's, and a pattern of all others.

    Args:
      first: of row 0.
      others: with {} for a number.
      start: the number of row 1.
    """
    return lambda row: others.format(row - 1 + start) if row else first


TORCH_TEXT = torch_rows("prompt_learner.ctx", "text_encoder.transformer.resblocks.{}.VPT_shallow")
TORCH_VISION = torch_rows("image_encoder.VPT", "image_encoder.transformer.resblocks.{}.VPT_shallow")


def check_depth(towers: Towers | None, **depths: int) -> None:
    """Raises `InputError` for prompts of no layer, or of more layers than a tower has.

    Args:
      towers: CLIP's modules, None where they are not known yet.
      depths: layers with prompts, by names such as text_depth, where the tower's comes first.
    """
    at_least(1, **depths)
    for name, depth in depths.items() if towers else ():
        tower = name.partition("_")[0]
        layers = getattr(towers, tower).layers
        if depth > layers:
            raise too_deep(name, depth, layers, tower)


def too_deep(name: str, depth: int, layers: int, tower: str) -> InputError:
    """The error of an option that names more layers than a tower has."""
    return InputError(
        f"method.{name}={depth} is more than the {layers} layers of this CLIP's {tower} tower: "
        f"set --config.method.{name} to {layers} or less."
    )


def tokenize(tokenizer: Tokenizer, class_names: tuple[str, ...], n: int) -> dict:
    """Sentences without what n prompts replace, and the ids of that.

    Prompts replace the first tokens of "a photo of a NAME."; what is left of the words stays
    between prompts and name. Above four prompts the sentence is the name alone, and there are no
    words to start from.
    """
    words = " ".join(WORDS) if n <= len(WORDS) else ""
    sentences = [f"{words} {name}.".strip() for name in readable(class_names)]
    context = tokenizer.encode(words)[:n]
    tokens = tokenizer(sentences, room=n - len(context))
    ids = np.delete(tokens.ids, np.arange(len(context)) + 1, axis=1)
    names = tokens.replace(ids=ids, eot=tokens.eot - len(context))
    return {"names": names, "context": np.array(context, np.int32)}


def init_text(
    key: PRNGKeyArray, towers: Towers, frozen: dict, names: dict, depth: int, n: int
) -> Float[Array, "J n Dt"]:
    """Random prompts for the text tower, the first ones embeddings of words where these suffice."""
    prompts = SPREAD * jax.random.normal(key, (depth, n, towers.text.width))
    if n > len(WORDS):
        return prompts
    return prompts.at[0].set(towers.embed(frozen, names["context"]))


def init_vision(key: PRNGKeyArray, towers: Towers, depth: int, n: int) -> Float[Array, "J n W"]:
    """Random prompts for the vision tower."""
    return SPREAD * jax.random.normal(key, (depth, n, towers.vision.width))


def encode_texts(
    towers: Towers, frozen: dict, names: dict, prompts: Float[Array, "J n Dt"]
) -> Float[Array, "C 1 D"]:
    """Text features of prompts and names, not normalised."""
    return towers.texts(frozen, names["names"], prompts[:1], deep=prompts[1:])


def cross_entropy(
    scores: Scores, labels: Int[Array, " B"]
) -> tuple[Float[Array, " B"], dict[str, Array]]:
    """The loss of the only logits, and their accuracy."""
    (logits,) = scores.logits.values()
    values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return values, accuracies(scores.logits, labels)


def family(epochs: int, lr: float, batch_size: int = 4) -> dict[str, float | int | str]:
    """Training settings of MaPLe's family of code bases."""
    return {
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": lr,
        "train.weight_decay": 5e-4,
        "train.schedule": "dassl",
        "train.warmup_epochs": 1,
    }
