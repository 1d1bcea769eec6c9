"""What a CLIP's config files say that its weights do not.

Every key of a config is used, compared with the weights, known to change nothing, or refused.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
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
      sizes: what has to be as in the weights, by names of `weights.Architecture`.
      mean: of the pixels that the vision tower was trained on, per channel.
      std: their standard deviation.
    """

    activation: str = "quick_gelu"
    vision_heads: int | None = None
    text_heads: int | None = None
    vision_head_width: int | None = None
    vision_epsilon: float = EPSILON
    text_epsilon: float = EPSILON
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


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
    if pixels and not rest.get("preprocess_cfg"):  # open_clip's own word counts more
        stated = dataclasses.replace(stated, **_preprocessor(pixels))
    for name, value in vars(stated).items():
        if not _sound(name, value):
            raise InputError(
                f"the CLIP's config gives {name} as {value!r}: copy the config again, or "
                "remove it where the weights are OpenAI's."
            )
    return stated


def _sound(name: str, value: Any) -> bool:
    if name in ("mean", "std"):
        return len(value) == 3 and all(isinstance(x, int | float) for x in value)
    if name == "sizes":
        return all(isinstance(x, int) for x in value.values())
    kind = {"activation": str, "vision_epsilon": float, "text_epsilon": float}.get(name, int | None)
    return isinstance(value, kind) and value != 0


class _Part(dict):
    """A part of a config, whose keys are taken one by one, until the rest has to be harmless."""

    def __init__(self, name: str, content: Any):
        if content is not None and not isinstance(content, dict):
            raise InputError(
                f"the CLIP's config gives {name} as {content!r}: it must be an object."
            )
        super().__init__(content or {})
        self._name = name

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key, which is used; the default where it is missing or null."""
        value = self.pop(key, None)
        return default if value is None else value

    def sizes(self, **keys: str) -> dict[str, int]:
        """The values of keys by the names of sizes, as far as they are there."""
        found = {size: self.take(key) for size, key in keys.items()}
        return {size: value for size, value in found.items() if value is not None}

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
            raise InputError(
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
_NEUTRAL_PIXELS = {"mode": ["RGB"], "interpolation": ["bicubic"], "resize_mode": ["shortest"]}


def _open_clip(config: dict) -> Stated:
    whole = _Part("config", config)
    model = _Part("model_cfg", whole.take("model_cfg"))
    pixels = _Part("preprocess_cfg", whole.take("preprocess_cfg"))
    vision = _Part("vision_cfg", model.take("vision_cfg"))
    text = _Part("text_cfg", model.take("text_cfg"))
    sizes = model.sizes(embed_dim="embed_dim")
    sizes |= vision.sizes(patch_size="patch_size", vision_width="width", vision_layers="layers")
    sizes |= vision.sizes(image_size="image_size")
    sizes |= text.sizes(context_length="context_length", vocab_size="vocab_size")
    sizes |= text.sizes(text_width="width", text_layers="layers")
    stated = Stated(
        activation="quick_gelu" if model.take("quick_gelu") else "gelu",
        vision_head_width=vision.take("head_width"),
        text_heads=text.take("heads"),
        vision_epsilon=_epsilon(vision),
        text_epsilon=_epsilon(text),
        sizes=sizes,
        mean=tuple(pixels.take("mean", MEAN)),
        std=tuple(pixels.take("std", STD)),
    )
    whole.refuse_rest({}, {"architecture", "tags", "name"})
    model.refuse_rest(_NEUTRAL_MODEL, _TRAINING)
    vision.refuse_rest(_NEUTRAL_VISION, _TRAINING)
    text.refuse_rest(_NEUTRAL_TEXT, _TRAINING)
    pixels.refuse_rest(_NEUTRAL_PIXELS, {"size", "fill_color"})
    return stated


def _epsilon(part: _Part) -> float:
    norm = _Part("norm_kwargs", part.take("norm_kwargs"))
    epsilon = float(norm.take("eps", EPSILON))
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
    sizes |= _tower(vision, "vision") | _tower(text, "text")
    sizes |= vision.sizes(patch_size="patch_size", image_size="image_size")
    sizes |= text.sizes(context_length="max_position_embeddings", vocab_size="vocab_size")
    activation = vision.take("hidden_act", "quick_gelu")
    if (of_text := text.take("hidden_act", activation)) != activation:
        raise InputError(
            f"the CLIP's config has {activation} in the vision tower and {of_text} in the text "
            "tower, and only one activation for both is done here: take another CLIP."
        )
    stated = Stated(
        activation=activation,
        vision_heads=vision.take("num_attention_heads"),
        text_heads=text.take("num_attention_heads"),
        vision_epsilon=float(vision.take("layer_norm_eps", EPSILON)),
        text_epsilon=float(text.take("layer_norm_eps", EPSILON)),
        sizes=sizes,
    )
    for part, kind in ((whole, ""), (vision, "_vision_model"), (text, "_text_model")):
        harmless = {key for key in part if _HARMLESS.fullmatch(key)} | {"projection_dim"}
        part.refuse_rest({"model_type": [f"clip{kind}"], "num_channels": [3]}, harmless)
    return stated


def _merged(whole: _Part, name: str) -> Any:
    """A tower's part, over which old files write another form of it."""
    part, over = whole.take(name), whole.take(f"{name}_dict")
    return {**part, **over} if isinstance(part, dict) and isinstance(over, dict) else part or over


def _tower(part: _Part, tower: str) -> dict[str, int]:
    keys = {"width": "hidden_size", "layers": "num_hidden_layers", "mlp": "intermediate_size"}
    return part.sizes(**{f"{tower}_{size}": key for size, key in keys.items()})


_BICUBIC = 3  # Pillow's number
_NEUTRAL_PREPROCESSOR = {
    "resample": [_BICUBIC],
    "do_center_crop": [True],
    "do_normalize": [True],
    "do_resize": [True],
    "do_rescale": [True],
    "do_convert_rgb": [True],
    "rescale_factor": [1 / 255],
}
_NAMES = {"feature_extractor_type", "image_processor_type", "processor_class", "crop_size"}


def _preprocessor(pixels: _Part) -> dict[str, Any]:
    size = pixels.take("size")
    if isinstance(size, dict) and "shortest_edge" not in size:
        raise InputError(
            f"the CLIP's preprocessor_config.json has size={size!r}, which changes the ratio of an "
            "image's sides, and that is not done here: take a CLIP that keeps it."
        )
    found = {"mean": pixels.take("image_mean"), "std": pixels.take("image_std")}
    pixels.refuse_rest(_NEUTRAL_PREPROCESSOR, _NAMES | {key for key in pixels if key[0] == "_"})
    return {name: tuple(value) for name, value in found.items() if value is not None}
