"""What a CLIP's config files say that its weights do not."""

import dataclasses

from sotglp_jax.errors import InputError

# CLIP's pixel statistics, for RGB in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class Stated:
    """Facts of a config; None where it is silent.

    Attributes:
      activation: as the config calls it.
      vision_heads: number of heads.
      text_heads: number of heads.
      vision_head_width: width of a head, instead of their number.
      vision_layers: number of layers.
      text_layers: number of layers.
      mean: of the pixels that the vision tower was trained on, per channel.
      std: their standard deviation.
    """

    activation: str = "quick_gelu"
    vision_heads: int | None = None
    text_heads: int | None = None
    vision_head_width: int | None = None
    vision_layers: int | None = None
    text_layers: int | None = None
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


def parse(config: dict) -> Stated:
    """Reads open_clip's or Hugging Face's form; {} says nothing, so OpenAI's defaults hold.

    Args:
      config: content of `open_clip_config.json` or `config.json`; "preprocessor" holds that of
        `preprocessor_config.json`.

    Raises:
      InputError: a value has another type than it should.
    """
    stated = _open_clip(config) if "model_cfg" in config else _hugging_face(config)
    for field in dataclasses.fields(Stated):
        value = getattr(stated, field.name)
        if field.name in ("mean", "std"):
            sound = len(value) == 3 and all(isinstance(x, int | float) for x in value)
        else:
            sound = isinstance(value, str if field.name == "activation" else int | None)
        if not sound or value == 0:
            raise InputError(
                f"the CLIP's config gives {field.name} as {value!r}: copy the config again, or "
                "remove it where the weights are OpenAI's."
            )
    return stated


def _open_clip(config: dict) -> Stated:
    model, pixels = _part(config, "model_cfg"), _part(config, "preprocess_cfg")
    vision, text = _part(model, "vision_cfg"), _part(model, "text_cfg")
    return Stated(
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
        vision_head_width=vision.get("head_width"),
        text_heads=text.get("heads"),
        vision_layers=vision.get("layers"),
        text_layers=text.get("layers"),
        mean=tuple(pixels.get("mean") or MEAN),
        std=tuple(pixels.get("std") or STD),
    )


def _hugging_face(config: dict) -> Stated:
    vision, text = _part(config, "vision_config"), _part(config, "text_config")
    pixels = _part(config, "preprocessor")
    return Stated(
        activation=vision.get("hidden_act", "quick_gelu"),
        vision_heads=vision.get("num_attention_heads"),
        text_heads=text.get("num_attention_heads"),
        vision_layers=vision.get("num_hidden_layers"),
        text_layers=text.get("num_hidden_layers"),
        mean=tuple(pixels.get("image_mean") or MEAN),
        std=tuple(pixels.get("image_std") or STD),
    )


def _part(config: dict, name: str) -> dict:
    part = config.get(name)
    if part is not None and not isinstance(part, dict):
        raise InputError(f"the CLIP's config gives {name} as {part!r}: it must be an object.")
    return part or {}
