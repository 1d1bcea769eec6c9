"""What every method of the package keeps."""

import pytest

from sotglp_jax import clip, methods
from sotglp_jax.configs import common
from sotglp_jax.methods.check import Check
from sotglp_jax.methods.contract import Method

NAMES = ("cat", "dog", "annual_crop_land", "tree", "sea")
TRAIN = {"epochs": 2, "lr": 0.1, "schedule": "paper", "warmup_epochs": 0, "warmup_lr": 0.0}


@pytest.fixture(scope="module")
def loaded():
    return clip.load("tiny")


def make(loaded: clip.Clip, name: str, **options) -> Method:
    """A method on the tiny CLIP by its usual recipe there."""
    return methods.make(dict(common.make(method=name).method) | options, loaded.towers())


@pytest.mark.parametrize("name", methods.NAMES)
def test_its_functions_give_what_the_contract_says(loaded, name):
    method = make(loaded, name)
    names = method.tokenize(loaded.tokenizer, NAMES, "a photo of a {}.")
    texts = method.tokenize_fixed(loaded.tokenizer, NAMES)
    Check(method, loaded.params, len(NAMES), loaded.arch.image_size).start(names, texts, TRAIN)


def test_the_tiny_clip_has_a_recipe_of_its_own_where_others_do_not_suit_it():
    assert common.make(method="maple").recipe == "tiny"
    assert common.make(method="maple", recipe="official").recipe == "official"
    large = common.make(method="maple", clip="ViT-B/16")
    assert (large.recipe, large.method.depth) == ("official", 9)


@pytest.mark.parametrize(
    ("name", "dataset", "shots", "protocol", "said"),
    [
        ("coop", "eurosat", 16, "few_shot", ""),
        ("coop", "eurosat", 3, "few_shot", "epochs are published for 1, 2, 4, 8, 16 shots alone"),
        ("maple", "eurosat", 16, "few_shot", "for few shots of all classes are not published"),
        ("maple", "eurosat", 16, "base_to_new", ""),
        ("gallop", "imagenet", 16, "few_shot", ""),
        ("gallop", "imagenet", 4, "few_shot", "published for 16 shots alone"),
        ("promptsrc", "digits", 4, "few_shot", "eleven data sets alone"),
        ("proda", "imagenet", 16, "few_shot", "partly guesses"),
    ],
)
def test_it_says_which_settings_nobody_published(name, dataset, shots, protocol, said):
    found = methods.load(name).unpublished("official", dataset, shots, protocol)
    assert said in found and bool(said) == bool(found)
