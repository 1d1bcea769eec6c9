"""What every method of the package keeps and refuses."""

import functools
import re

import jax
import numpy as np
import pytest

from sotglp_jax import clip, methods
from sotglp_jax.configs import common
from sotglp_jax.devices import sharding
from sotglp_jax.errors import InputError
from sotglp_jax.methods.check import Check
from sotglp_jax.methods.contract import PADDING, Method, Moment, masked_mean
from sotglp_jax.start import Start

NAMES = ("cat", "dog", "annual_crop_land", "tree", "sea")
WORDS = "a photo of a"
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
        ("lsn", "imagenet", 16, "few_shot", "128 shots of 100 ImageNet classes"),
        ("lsn_cocoop", "imagenet", 16, "few_shot", "no settings of it are published"),
    ],
)
def test_it_says_which_settings_nobody_published(name, dataset, shots, protocol, said):
    found = methods.load(name).unpublished("official", dataset, shots, protocol)
    assert said in found and bool(said) == bool(found)


def start(loaded: clip.Clip, name: str, names: tuple[str, ...] = NAMES, **options):
    """The shapes of a method's first parameters, as a run asks for them before it reads images."""
    method = make(loaded, name, **options)
    tokens = method.tokenize(loaded.tokenizer, names, "a photo of a {}.")
    return Check(method, loaded.params, len(names), loaded.arch.image_size).init(tokens)


LONG = "shorten the name or the prompt"
SEVERAL = "2 words but 10 tokens, so some of them would be cut"
DEEP = "is more than the {} layers of this CLIP's"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("coop", {"ctx_init": "a xylograph"}, SEVERAL),
        ("cocoop", {"ctx_init": "a xylograph"}, SEVERAL),
        ("coop", {"n_ctx": 75}, LONG),
        ("cocoop", {"ctx_init": "", "n_ctx": 75}, LONG),
        ("locoop", {"n_ctx": 75}, LONG),
        ("plot", {"n_ctx": 75}, LONG),
        ("proda", {"n_ctx": 75}, LONG),
        ("maple", {"n_ctx": 75}, LONG),
        ("language", {"n_text": 75}, LONG),
        ("ivlp", {"n_text": 75}, LONG),
        ("promptsrc", {"n_text": 75}, LONG),
        ("plotpp", {"templates": ("a " * 75,)}, "shorten the name"),
        ("sotglp", {"context": "a " * 75}, "75 tokens: set --config.method.context"),
        ("maple", {"depth": 3}, DEEP.format(2)),
        ("language", {"text_depth": 3}, DEEP.format(2)),
        ("ivlp", {"vision_depth": 4}, DEEP.format(3)),
        ("promptsrc", {"text_depth": 3}, DEEP.format(2)),
        ("vpt", {"vision_depth": 4}, DEEP.format(3)),
        ("plotpp", {"templates": (f"{WORDS} photo of a", "a")}, '"a" is too short before "tree"'),
        ("plotpp", {"templates": ("a photo", " ")}, "sentences of a word or more each"),
        ("plot", {"n_ctx": 0}, "n_ctx=0 is too small"),
        ("proda", {"n_ctx": 0}, "n_ctx=0 is too small"),
        ("proda", {"block": 3}, "does not divide the 32 prompts"),
        ("locoop", {"topk": 6}, "more than the 5 classes"),
        ("gallop", {"topk": (5, 10)}, "each of the 4 local prompts"),
    ],
)
def test_options_that_do_not_fit_are_refused(loaded, name, options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        start(loaded, name, **options)


PUNCTUATED = ("sea (young)", "U.S.", "what?", "tree")
WHOLE = {"zeroshot": {}, "vpt": {}}
BEHIND = {"coop": {"ctx_init": WORDS}, "cocoop": {}, "locoop": {"ctx_init": WORDS}, "plot": {}}
BEHIND |= {"proda": {}, "maple": {}, "ivlp": {}, "promptsrc": {}, "language": {}}
BEHIND["plotpp"] = {"templates": (WORDS,)}
SPLIT = ("coop", "cocoop", "locoop", "proda")  # where the name may stand before other tokens


@pytest.mark.parametrize(("name", "options"), [*WHOLE.items(), *BEHIND.items()])
def test_a_name_that_punctuation_merges_with_the_full_stop_is_right(loaded, name, options):
    """Sentences are those of a tokenizer that sees all of them at once."""
    encode, method = loaded.tokenizer.encode, make(loaded, name, **options)
    tree = method.tokenize(loaded.tokenizer, PUNCTUATED, f"{WORDS} {{}}.")
    tokens = tree["rest of 0" if name == "plotpp" else "names"]
    hidden = 0 if name in WHOLE else 4 - 2 * (name == "maple")  # tokens that prompts stand for
    for row, eot, split, own in zip(*vars(tokens).values(), PUNCTUATED, strict=True):
        assert row[1:eot].tolist() == encode(f"{WORDS} {own}.")[hidden:]
        assert name not in SPLIT or split == len(encode(own))
    merged = encode(f"{PUNCTUATED[0]}.")
    assert merged[: len(encode(PUNCTUATED[0]))] != encode(PUNCTUATED[0])  # or this tells nothing


# Class-free parameters go over to any classes.
CLASSES = {"linear_probe": {}, "coop": {"class_specific": True}, "locoop": {"class_specific": True}}


@pytest.mark.parametrize("name", methods.NAMES)
def test_parameters_of_classes_are_for_them_alone(loaded, name):
    options = CLASSES.get(name, {})
    method, params = make(loaded, name, **options), start(loaded, name, **options)
    assert (method.on(params, ()) is None) == (name in CLASSES)


KNOWN, THEIRS, NEW = (0, 1, 4), (1, 2, 0), (2, 3)  # of `NAMES`, in another run, and not in it


@pytest.mark.parametrize("name", sorted({*methods.NAMES, "shared coop"} - {"zeroshot"}))
def test_another_run_is_a_start_for_the_classes_of_both(loaded, name):
    options, rng = CLASSES.get(name, {}), np.random.default_rng(0)
    name, method = name.split()[-1], make(loaded, name.split()[-1], **options)

    def draw(names):
        shapes = start(loaded, name, names, **options)
        return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), shapes)

    theirs, ours = draw(("sea", "cat", "dog", "owl")), draw(NAMES)
    begun, afresh = (
        Start("run", "", theirs, labels, {}).begin(method, ours)
        for labels in ((1, 2, None, None, 0), (None,) * 5)
    )
    same = functools.partial(jax.tree.map, np.testing.assert_array_equal)
    same(method.on(begun, KNOWN)[1], method.on(theirs, THEIRS)[1])
    for key, of_new in method.on(ours, NEW)[1].items():
        own = np.shape(of_new) != np.shape(ours[key])  # a class's, or else all classes'
        same(method.on(begun, NEW)[1][key], of_new if own else theirs[key])
        same(afresh[key], ours[key] if own else theirs[key])


# Draws of every image depend on their number.
UNDRAWN = dict.fromkeys(("sotglp", "gallop"), {"global_dropout": 0.0})


TRAINED = [x for x in methods.NAMES if x not in ("zeroshot", "linear_probe", "locoop")]


@pytest.mark.parametrize(
    "name", ["locoop", *(pytest.param(x, marks=pytest.mark.slow) for x in TRAINED)]
)
def test_a_batch_of_one_has_the_loss_that_it_has_among_padding(loaded, name):
    method, rng = make(loaded, name, **UNDRAWN.get(name, {})), np.random.default_rng(0)
    tokens = (
        method.tokenize(loaded.tokenizer, NAMES, ""),
        method.tokenize_fixed(loaded.tokenizer, NAMES),
    )
    names, of_fixed = sharding.put_names(tokens, sharding.make_mesh(1), lambda _: 0)
    key, zero = jax.random.key(0), np.int32(0)
    moment, frozen = Moment(key, zero, zero, 0, key), loaded.params

    def draw(function, *arguments):
        like = jax.eval_shape(function, *arguments)
        return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), like)

    params = draw(method.init, key, frozen, names)
    frozen = frozen | {"fixed": draw(method.fixed, frozen, of_fixed)}
    pixels = jax.ShapeDtypeStruct((1, 64, 64, 3), np.uint8)
    image = draw(method.encode_images, params, frozen, pixels)
    text = draw(method.encode_step, params, frozen, names, moment)

    @jax.jit
    def loss(labels):
        rows = jax.tree.map(lambda x: np.repeat(x, len(labels), axis=0), image)
        return masked_mean(method.loss(params, frozen, text, rows, labels, moment)[0], labels)

    alone, among = loss(np.array([3])), loss(np.array([3, PADDING, PADDING]))
    assert np.isfinite(alone)
    np.testing.assert_allclose(among, alone, rtol=1e-5)
