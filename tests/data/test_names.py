"""Names and sentences that a file gives to classes."""

import json
import re

import jax
import numpy as np
import pytest
from test_folders import classes, refusal

from sotglp_jax import clip
from sotglp_jax.data import datasets
from sotglp_jax.devices import sharding
from sotglp_jax.methods.zeroshot import ZeroShot

SENTENCES = ["a photo of a sun hat.", "a hat on a head."]


@pytest.mark.parametrize("beside", [True, False])
def test_classes_are_renamed_and_their_folders_stay(tmp_path, beside):
    classes(tmp_path / "own")
    file = tmp_path / "own" / "classes.json" if beside else tmp_path / "names.json"
    file.write_text(json.dumps({"hat": "sun hat"}))
    data = datasets.resolve(str(tmp_path / "own"), named_by="" if beside else str(file))
    assert data.class_names == ("sun hat", "shoe") and data.class_ids == ("hat", "shoe")
    assert data.train.names[0].startswith("hat/") and not data.sentences
    assert data.notes == (f"{file}: 1 of 2 classes renamed",)  # and nothing is left out


def test_a_run_folder_that_is_called_as_a_known_set_does_not_rename_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "classes.json").write_text('["zero", "one"]')  # as a run keeps names
    assert datasets.resolve("digits").class_names[:2] == ("zero", "one")


@pytest.mark.parametrize("value", [["sun_hat", "hat on a head"], {"name": "sun hat"}])
def test_several_sentences_are_for_zero_shot_and_the_first_name_for_prompts(tmp_path, value):
    classes(tmp_path)
    value = value | {"sentences": SENTENCES} if isinstance(value, dict) else value
    (tmp_path / "classes.json").write_text(json.dumps({"hat": value}))
    data = datasets.resolve(str(tmp_path), template="see the {}.")
    of_hat = ("see the sun hat.", "see the hat on a head.")
    if isinstance(value, dict):
        of_hat = tuple(SENTENCES)
    assert data.class_names[0].replace("_", " ") == "sun hat"
    assert data.sentences == (of_hat, ("see the shoe.",))
    assert "1 with several sentences" in data.notes[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"hut": "hat"}', 'names a class "hut" that .* lacks: its classes are hat, shoe'),
        ("{'hat': 1}", "is no JSON: "),
        ('["sun hat", "shoe"]', "must be a JSON object"),
        ('{"hat": "Shoe"}', 'classes 0 and 1 of .*, "Shoe" and "shoe", make the same prompt'),
        ('{"hat": " "}', 'has no sound value for the class "hat": give it as "dog"'),
        ('{"hat": []}', "has no sound value"),
        ('{"hat": {"name": "hat", "sentences": "a hat."}}', "has no sound value"),
        ('{"hat": {"names": "hat"}}', "has no sound value"),
        ('{"hat": ["hat", "shoe"]}', 'gives "a photo of a shoe." twice'),
        ("\udcff", "cannot be read: it is no UTF-8"),
    ],
)
def test_what_names_no_classes_is_one_sentence(tmp_path, content, said):
    classes(tmp_path)
    (tmp_path / "classes.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert re.search(said, refused := refusal(tmp_path)), refused


def test_zero_shot_clip_averages_what_is_said_of_a_class(clip_folder):
    loaded = clip.load(str(clip_folder))
    method = ZeroShot(loaded.towers())
    names = method.tokenize_sentences(loaded.tokenizer, [*([x] for x in SENTENCES), SENTENCES])
    names = sharding.put_names(names, sharding.make_mesh(1), lambda tokens: 4)
    found = np.asarray(jax.jit(method.encode_classes)({}, loaded.params, names))[:, 0]
    np.testing.assert_allclose(np.linalg.norm(found[:2], axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found[2], found[:2].mean(0), atol=1e-6)
