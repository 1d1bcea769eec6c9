"""PLOT++'s sentences: learned tokens in front, and what each template leaves behind them."""

import numpy as np
import pytest

from sotglp_jax import clip
from sotglp_jax.methods.plotpp import PlotPlusPlus

NAMES = ("hat", "top_hat", "x")


@pytest.mark.parametrize(
    "templates",
    [
        ("a bc", "a cd"),
        ("a bc", "a bcd", "a bce"),  # as EuroSAT's, which leave "of" and "a"
        ("a bc", "a bcde", "a bce", "a fg", "a bcdf"),
    ],
)
def test_learned_tokens_and_what_stays_behind_them_make_the_sentence(clip_folder, templates):
    tokenizer = clip.load(str(clip_folder)).tokenizer
    tree = PlotPlusPlus(None, templates=templates).tokenize(tokenizer, NAMES, "")
    start, found = tree.pop("start"), {}
    for key, rest in tree.items():
        for i in map(int, key.removeprefix("rest of ").split()):
            for row, eot, name in zip(rest.ids, rest.eot, NAMES, strict=True):
                found[i, name] = [*start[i], *row[1:eot]]
    assert len(found) == len(templates) * len(NAMES)
    for (i, name), ids in found.items():
        sentence = f"{templates[i]} {name.replace('_', ' ')}."
        np.testing.assert_array_equal(ids, tokenizer.encode(sentence), err_msg=sentence)
