"""What a CLIP's config files say that its weights do not.

Every key of a config is used, compared with the weights, known to change nothing, or refused.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sotglp_jax.errors import InputError

# CLIP's pixel statistics, for RGB in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Stated:
    """Facts of a config; None where it is silent.

    Attributes:
      activation: as the config calls it.
      vision_heads: number of heads.
      text_heads: number of heads.
      vision_head_width: width of a head, instead of their number.
      vision_epsilon: of the layer norms.
      text_epsilon: of the layer norms.
      sizes: what has to be as in the weights, each a name of `weights.Architecture` and its value.
      mean: of the pixels that the vision tower was trained on, per channel.
      std: their standard deviation.
      resize_mode: "shortest" or "squash", how images become squares.
      interpolation: "bicubic" or "bilinear".
    """

    activation: str = "quick_gelu"
    vision_heads: int | None = None
    text_heads: int | None = None
    vision_head_width: int | None = None
    vision_epsilon: float = EPSILON
    text_epsilon: float = EPSILON
    sizes: tuple[tuple[str, int], ...] = ()
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"


def parse(config: dict) -> Stated:
    """Reads open_clip's or Hugging Face's form; {} says nothing, so OpenAI's defaults hold.

    Args:
      config: content of `open_clip_config.json` or `config.json`; "preprocessor" holds that of
        `preprocessor_config.json`.

    Raises:
      InputError: a value has another type than it should, or says something that is not done here.
    """
    rest = {name: part for name, part in config.items() if name != "preprocessor"}
    stated = _open_clip(rest) if "model_cfg" in rest else _hugging_face(rest)
    pixels = _Part("preprocessor", config.get("preprocessor"))
    if not pixels or rest.get("preprocess_cfg"):  # open_clip's own word counts more
        return stated
    return _preprocessed(stated, pixels)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _three(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_number, value))


# What the value of a key must be: a test, and in words.
Kind = tuple[Callable[[Any], bool], str]
FLAG: Kind = (lambda x: isinstance(x, bool), "true or false")
COUNT: Kind = (lambda x: type(x) is int and x > 0, "a whole number above 0")
POSITIVE: Kind = (lambda x: _number(x) and x > 0, "a number above 0")
TEXT: Kind = (lambda x: isinstance(x, str), "a text")
THREE: Kind = (_three, "three numbers")
THREE_POSITIVE: Kind = (lambda x: _three(x) and min(x) > 0, "three numbers above 0")
PART: Kind = (lambda x: isinstance(x, dict), "an object")


class _Part(dict):
    """A part of a config, whose keys are taken one by one, until the rest has to be harmless."""

    def __init__(self, name: str, content: dict | None):
        super().__init__(content or {})
        self._name = name

    def take(self, key: str, kind: Kind, default: Any = None) -> Any:
        """The value of a key, which is used; the default where it is missing or null.

        Raises:
          InputError: the value is of another kind.
        """
        value, (fits, words) = self.pop(key, None), kind
        if value is None:
            return default
        if not fits(value):
            raise InputError(
                f"the CLIP's config has {self._name}.{key}={value!r}, which must be {words}: copy "
                "the config again, or remove it where the weights are OpenAI's."
            )
        return value

    def part(self, key: str) -> "_Part":
        """The part of this name, empty where it is missing."""
        return _Part(key, self.take(key, PART))

    def choose(self, key: str, choices: Mapping[Any, str]) -> str:
        """What the value means; the first where the key is missing. Others are left and refused."""
        value = self.get(key)
        if not isinstance(value, str | int) or value not in choices:
            return next(iter(choices.values()))
        return choices[self.pop(key)]

    def sizes(self, **keys: str) -> tuple[tuple[str, int], ...]:
        """The values of keys by the names of sizes, as far as they are there."""
        found = ((size, self.take(key, COUNT)) for size, key in keys.items())
        return tuple((size, value) for size, value in found if value is not None)

    def refuse_rest(
        self, neutral: Mapping[str, Collection], harmless: Collection[str] = ()
    ) -> None:
        """Raises `InputError` for a key that is left, unless its value changes nothing.

        Args:
          neutral: values that change nothing by key; None, which is silence, never does.
          harmless: keys whose values change nothing.
        """
        for key, value in self.items():
            if value is None or key in harmless or value in neutral.get(key, ()):
                continue
            if isinstance(value, dict) and not value:
                continue
            raise self.refusal(key, value)

    def refusal(self, key: str, value: Any) -> InputError:
        """What is said of a value that changes features in a way that is not done here."""
        return InputError(
            f"the CLIP's config has {self._name}.{key}={value!r}, which is not done here: take "
            "a CLIP without it, or remove the key where you know that it changes nothing."
        )


# ---------------------------------------------------------------- open_clip
# Of training, not of inference.
_TRAINING = {"patch_dropout", "init_logit_scale", "init_logit_bias", "cast_dtype", "output_dict"}
_NEUTRAL_MODEL = {"custom_text": [False], "nonscalar_logit_scale": [False]}
_NEUTRAL_VISION = {
    "mlp_ratio": [4, 4.0],
    "attentional_pool": [False],
    "attn_pooler_queries": [256],  # of the pool that is not there
    "attn_pooler_heads": [8],
    "no_ln_pre": [False],
    "pos_embed_type": ["learnable"],
    "final_ln_after_pool": [False],
    "pool_type": ["tok"],
    "output_tokens": [False],
    "input_patchnorm": [False],
    "global_average_pool": [False],
    "qk_norm": [False],
    "scaled_cosine_attn": [False],
    "timm_model_pretrained": [False],
    "timm_pool": ["avg", ""],
    "timm_proj": ["linear", ""],
    "timm_proj_bias": [False],
    "timm_drop": [0.0, 0],
}
_NEUTRAL_TEXT = {
    "mlp_ratio": [4, 4.0],
    "no_causal_mask": [False],
    "embed_cls": [False],
    "pad_id": [0],
    "final_ln_after_pool": [False],
    "pool_type": ["argmax"],
    "proj_bias": [False],
    "proj_type": ["linear"],
    "output_tokens": [False],
    "correct_cls_mask": [False, True],
    "qk_norm": [False],
    "scaled_cosine_attn": [False],
    "hf_tokenizer_name": [""],
    "hf_model_pretrained": [True, False],
    "hf_proj_type": ["mlp"],
    "hf_pooler_type": ["mean_pooler"],
}
_INTERPOLATIONS = {"bicubic": "bicubic", "bilinear": "bilinear"}
_MODES = {"shortest": "shortest", "squash": "squash"}


def _open_clip(config: dict) -> Stated:
    whole = _Part("config", config)
    model, pixels = whole.part("model_cfg"), whole.part("preprocess_cfg")
    vision, text = model.part("vision_cfg"), model.part("text_cfg")
    sizes = model.sizes(embed_dim="embed_dim")
    sizes += vision.sizes(patch_size="patch_size", vision_width="width", vision_layers="layers")
    sizes += vision.sizes(image_size="image_size")
    sizes += text.sizes(context_length="context_length", vocab_size="vocab_size")
    sizes += text.sizes(text_width="width", text_layers="layers")
    stated = Stated(
        activation="quick_gelu" if model.take("quick_gelu", FLAG) else "gelu",
        vision_head_width=vision.take("head_width", COUNT),
        text_heads=text.take("heads", COUNT),
        vision_epsilon=_epsilon(vision),
        text_epsilon=_epsilon(text),
        sizes=sizes,
        mean=tuple(pixels.take("mean", THREE, MEAN)),
        std=tuple(pixels.take("std", THREE_POSITIVE, STD)),
        resize_mode=pixels.choose("resize_mode", _MODES),
        interpolation=pixels.choose("interpolation", _INTERPOLATIONS),
    )
    whole.refuse_rest({}, {"architecture", "tags", "name"})
    model.refuse_rest(_NEUTRAL_MODEL, _TRAINING)
    vision.refuse_rest(_NEUTRAL_VISION, _TRAINING)
    text.refuse_rest(_NEUTRAL_TEXT, _TRAINING)
    # The model's size counts there, and the colour is for a mode that is not done here.
    pixels.refuse_rest({"mode": ["RGB"]}, {"size", "fill_color"})
    return stated


def _epsilon(part: _Part) -> float:
    norm = part.part("norm_kwargs")
    epsilon = float(norm.take("eps", POSITIVE, EPSILON))
    norm.refuse_rest({})
    return epsilon


# ------------------------------------------------------------- Hugging Face
# Of every `PretrainedConfig`, from generation and training; no key here is read by `CLIPModel`.
_PRETRAINED = r"""_.*|add_cross_attention|architectures|attention_dropout|attn_implementation
|bad_words_ids|begin_suppress_tokens|bos_token_id|chunk_size_feed_forward
|cross_attention_hidden_size|decoder_start_token_id|diversity_penalty|do_sample|dropout|dtype
|early_stopping|encoder_no_repeat_ngram_size|eos_token_id|exponential_decay_length_penalty
|finetuning_task|forced_[be]os_token_id|id2label|initializer_(factor|range)|is_decoder
|is_encoder_decoder|label2id|length_penalty|(max|min)_length|no_repeat_ngram_size
|num_beam_groups|num_beams|num_return_sequences|output_(attentions|hidden_states|scores)
|pad_token_id|prefix|problem_type|pruned_heads|remove_invalid_values|repetition_penalty
|return_dict|return_dict_in_generate|sep_token_id|suppress_tokens|task_specific_params
|temperature|tf_legacy_loss|tie_encoder_decoder|tie_word_embeddings|tokenizer_class|top_[kp]
|torch_dtype|torchscript|transformers(_|\.).*|typical_p|use_bfloat16|use_cache
|logit_scale_init_value"""
_HARMLESS = re.compile(_PRETRAINED.replace("\n", ""))


def _hugging_face(config: dict) -> Stated:
    whole = _Part("config", config)
    vision = _Part("vision_config", _merged(whole, "vision_config"))
    text = _Part("text_config", _merged(whole, "text_config"))
    sizes = whole.sizes(embed_dim="projection_dim")
    sizes += _tower(vision, "vision") + _tower(text, "text")
    sizes += vision.sizes(patch_size="patch_size", image_size="image_size")
    sizes += text.sizes(context_length="max_position_embeddings", vocab_size="vocab_size")
    activation = vision.take("hidden_act", TEXT, "quick_gelu")
    if (of_text := text.take("hidden_act", TEXT, activation)) != activation:
        raise InputError(
            f"the CLIP's config has {activation} in the vision tower and {of_text} in the text "
            "tower, and only one activation for both is done here: take another CLIP."
        )
    stated = Stated(
        activation=activation,
        vision_heads=vision.take("num_attention_heads", COUNT),
        text_heads=text.take("num_attention_heads", COUNT),
        vision_epsilon=float(vision.take("layer_norm_eps", POSITIVE, EPSILON)),
        text_epsilon=float(text.take("layer_norm_eps", POSITIVE, EPSILON)),
        sizes=sizes,
    )
    for part, kind in ((whole, ""), (vision, "_vision_model"), (text, "_text_model")):
        harmless = {key for key in part if _HARMLESS.fullmatch(key)} | {"projection_dim"}
        part.refuse_rest({"model_type": [f"clip{kind}"], "num_channels": [3]}, harmless)
    return stated


def _merged(whole: _Part, name: str) -> dict:
    """A tower's part, over which old files write another form of it."""
    return whole.take(name, PART, {}) | whole.take(f"{name}_dict", PART, {})


def _tower(part: _Part, tower: str) -> tuple[tuple[str, int], ...]:
    keys = {"width": "hidden_size", "layers": "num_hidden_layers", "mlp": "intermediate_size"}
    return part.sizes(**{f"{tower}_{size}": key for size, key in keys.items()})


_RESAMPLING = {3: "bicubic", 2: "bilinear"}  # by Pillow's numbers
_NEUTRAL_PREPROCESSOR = {
    "do_center_crop": [True],
    "do_normalize": [True],
    "do_resize": [True],
    "do_rescale": [True],
    "do_convert_rgb": [True],
    "rescale_factor": [1 / 255],
}
_NAMES = {"feature_extractor_type", "image_processor_type", "processor_class"}


def _preprocessed(stated: Stated, pixels: _Part) -> Stated:
    """What a config states, and over it what its preprocessor_config.json does."""
    size, mode = _side(pixels, "size")
    crop, _ = _side(pixels, "crop_size")
    if size and crop and size != crop:
        raise pixels.refusal("crop_size", crop)
    found = dataclasses.replace(
        stated,
        mean=tuple(pixels.take("image_mean", THREE, stated.mean)),
        std=tuple(pixels.take("image_std", THREE_POSITIVE, stated.std)),
        resize_mode=mode,
        interpolation=pixels.choose("resample", _RESAMPLING),
        sizes=stated.sizes + ((("image_size", size or crop),) if size or crop else ()),
    )
    pixels.refuse_rest(_NEUTRAL_PREPROCESSOR, _NAMES | {key for key in pixels if key[0] == "_"})
    return found


def _side(pixels: _Part, key: str) -> tuple[int | None, str]:
    """The side of the square that a size names, and how an image comes to it."""
    value = pixels.pop(key, None)
    sides = value if isinstance(value, dict) else {"shortest_edge": value}
    side, *other = sides.values() or [None]
    known = sides.keys() in ({"shortest_edge"}, {"height", "width"})
    if not known or other not in ([], [side]) or not (value is None or COUNT[0](side)):
        raise pixels.refusal(key, value)
    return side, "squash" if other else "shortest"
