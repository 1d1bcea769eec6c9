"""Token ids, lengths, and names that do not fit."""

import clips
import numpy as np
import pytest
import tokenizers

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.errors import InputError


@pytest.fixture
def tokenizer(tmp_path):
    return Tokenizer(clips.tokenizer(tmp_path), context_length=24)


def test_start_text_end_and_zeros(tokenizer):
    tokens = tokenizer(["cat", "Bo at"])
    start, end = 0, 1
    for row, eot, text in zip(tokens.ids, tokens.eot, ["cat", "bo at"], strict=True):
        assert row[0] == start and row[eot] == end and not row[eot + 1 :].any()
        assert list(row[1:eot]) == tokenizer.encode(text)
    assert tokens.ids.dtype == tokens.eot.dtype == np.int32


@pytest.mark.parametrize("room", [0, 4])
def test_length_with_room_is_a_multiple_of_8_or_the_whole_context(tokenizer, room):
    for letters, length in ((1, 8), (6 - room, 8), (7 - room, 16), (22 - room, 24)):
        assert tokenizer(["x" * letters], room=room).ids.shape == (1, length - room)


def test_a_context_that_is_no_multiple_of_8_is_not_exceeded(tmp_path):
    tokens = Tokenizer(clips.tokenizer(tmp_path), context_length=21)(["x" * 15], room=4)
    assert tokens.ids.shape == (1, 21 - 4) and tokens.eot == 16


def test_a_name_too_long_is_named(tokenizer):
    with pytest.raises(InputError, match='"y{19}" needs 25 tokens .* reads 24'):
        tokenizer(["cat", "y" * 19], room=4)


def test_a_tokenizer_without_start_and_end_is_refused(tmp_path):
    path = clips.tokenizer(tmp_path)
    path.write_text(path.read_text().replace("<|startoftext|>", "[CLS]"))
    with pytest.raises(InputError, match="not a CLIP tokenizer"):
        Tokenizer(path, context_length=24)


def test_truncation_and_padding_that_were_saved_are_ignored(tmp_path, tokenizer):
    path = clips.tokenizer(tmp_path)
    saved = tokenizers.Tokenizer.from_file(str(path))
    saved.enable_truncation(3)
    saved.enable_padding(length=20, pad_id=1, pad_token="<|endoftext|>")
    saved.save(str(path))
    assert Tokenizer(path, context_length=24).encode("a long name") == tokenizer.encode(
        "a long name"
    )
