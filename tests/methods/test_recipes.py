"""What recipe official of SOT-GLP decides past the method's options, and what an ensemble reads."""

import dataclasses

import jax
import numpy as np
import pytest

from sotglp_jax.configs import common
from sotglp_jax.errors import InputError
from sotglp_jax.run import prepare

NAMES = ("annual_crop", "tree", *"abcdefgh")


def same_sentences(config, folder, *expected):
    """Whether zero-shot CLIP's first sentences beside a run are these."""
    run = prepare(config, str(folder))
    run = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, class_names=NAMES))
    tokens = run.tokenize(*run.baseline)["names"]
    found = [ids[1:eot].tolist() for ids, eot in zip(tokens.ids, tokens.eot, strict=True)]
    return found[: len(expected)] == [run.clip.tokenizer.encode(text) for text in expected]


def test_the_zero_shot_sentence_has_no_full_stop_and_keeps_underscores(tmp_path):
    config = common.make(recipe="official")
    number = "a photo of the number"
    assert same_sentences(config, tmp_path, f"{number} annual_crop", f"{number} tree")
    config.data.update(full_stop=True, template="{}.")
    config.method.keep_underscores = False
    assert same_sentences(config, tmp_path, "annual crop.", "tree.")
    alone = common.make(method="zeroshot", recipe="official")
    assert alone.method.keep_underscores and not alone.data.full_stop


def test_an_ensemble_reads_what_zero_shot_clip_reads(tmp_path):
    run = prepare(common.make(variant="ensemble", shots=1), str(tmp_path))
    several = tuple((x, f"some {x}")[: 1 + (x == "tree")] for x in NAMES)
    for sentences in ((), several):
        dataset = dataclasses.replace(run.dataset, class_names=NAMES, sentences=sentences)
        one = dataclasses.replace(run, dataset=dataset)
        ours, theirs = one.tokenize(one.method)["zero_shot"], one.tokenize(*one.baseline)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert "places" in ours


def test_a_set_below_one_batch_is_refused_since_it_would_not_be_trained(tmp_path):
    config, folder = common.make(shots=2, recipe="official"), tmp_path / "run"
    said = "20 training images make no whole batch of 32, .* --config.train.drop_last=unless_only"
    with pytest.raises(InputError, match=said):
        prepare(config, str(folder))
    assert not folder.exists()
    config.train.drop_last = "unless_only"
    assert prepare(config, str(folder)).steps_per_epoch == 1
