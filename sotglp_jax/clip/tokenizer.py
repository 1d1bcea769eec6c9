"""Class names and templates to token ids, by Hugging Face's `tokenizers`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from flax import struct
from jaxtyping import Array, Int

from sotglp_jax.errors import InputError

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"


@struct.dataclass
class Tokens:
    """[SOS] text [EOT], filled up with zeros; one row a text.

    Attributes:
      ids: int32 token ids.
      eot: int32 position of the end-of-text token.
      split: number of tokens behind [SOS] that a context may be put behind; 0 holds for all.
    """

    ids: Int[Array, "n L"]
    eot: Int[Array, " n"]
    split: Int[Array, " n"] | int = 0


class Tokenizer:
    """CLIP's byte-pair encoding as a `tokenizer.json` states it.

    Args:
      path: the `tokenizer.json` that belongs to the weights.
      context_length: positions of the text tower, 77 for OpenAI's.

    Raises:
      InputError: the file cannot be read as a tokenizer, or lacks the start or end token.
    """

    def __init__(self, path: Path, context_length: int):
        try:
            self._bpe = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises a bare Exception
            raise InputError(
                f"{path} cannot be read as a tokenizer.json ({error}); copy the one that belongs "
                "to the weights there."
            ) from None
        self._bpe.no_truncation()  # a saved setting would cut names in silence
        self._bpe.no_padding()
        self.context_length = context_length
        self._start, self._end = (self._bpe.token_to_id(t) for t in (START, END))
        if self._start is None or self._end is None:
            raise InputError(
                f"{path} has no {START} or {END} token, so it is not a CLIP tokenizer; copy the "
                "one that belongs to the weights there."
            )

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._bpe.get_vocab().values()) + 1

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone; underscores are the caller's matter."""
        return self._bpe.encode(text, add_special_tokens=False).ids

    def word(self, token: int) -> str:
        """A token as text; a part of a word that goes on ends in "-"."""
        text = self._bpe.id_to_token(token)
        return text.removesuffix(END_OF_WORD) if text.endswith((END_OF_WORD, "|>")) else f"{text}-"

    def __call__(self, texts: Sequence[str], room: int = 0) -> Tokens:
        """Encodes texts at the length they need.

        Args:
          texts: class names or whole sentences.
          room: context positions that will be put between [SOS] and the text later. The length
            is chosen so that it is a multiple of 8 with them, or the whole context.

        Raises:
          InputError: a text does not fit into the context; names it.
        """
        rows = [[self._start, *self.encode(text), self._end] for text in texts]
        for text, row in zip(texts, rows, strict=True):
            if len(row) + room > self.context_length:
                raise InputError(
                    f'class name "{text}" needs {len(row) + room} tokens with its prompt, but '
                    f"this CLIP reads {self.context_length}: shorten the name"
                    f"{' or the prompt' if room else ''}."
                )
        longest = max(map(len, rows)) + room
        length = min(-(-longest // 8) * 8, self.context_length) - room
        ids = np.zeros((len(rows), length), np.int32)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        eot = np.array([len(row) - 1 for row in rows], np.int32)
        return Tokens(ids, eot, np.zeros_like(eot))
