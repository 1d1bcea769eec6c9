"""Where a CLIP's files are: a folder, a file, or a hub repository in the local cache."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from sotglp_jax.errors import InputError

# OpenAI's weights as safetensors, under OpenAI's tensor names.
OPENAI = {
    "ViT-B/32": "timm/vit_base_patch32_clip_224.openai",
    "ViT-B/16": "timm/vit_base_patch16_clip_224.openai",
    "ViT-L/14": "timm/vit_large_patch14_clip_224.openai",
    "ViT-L/14@336": "timm/vit_large_patch14_clip_336.openai",
}
OPENAI_VOCABULARY = "openai/clip-vit-base-patch16"
TINY = Path(__file__).parent.parent / "assets" / "tiny_clip"

_WEIGHTS = ("open_clip_model.safetensors", "model.safetensors")
_INDEX = "model.safetensors.index.json"
_CONFIGS = ("open_clip_config.json", "config.json")
_PREPROCESSOR = "preprocessor_config.json"


@dataclasses.dataclass(frozen=True)
class ClipFiles:
    """The files of one CLIP.

    Attributes:
      weights: one or several `.safetensors`, or a single `.pt`.
      tokenizer: its `tokenizer.json`.
      config: its parsed `open_clip_config.json` or `config.json`, {} where it has none, and its
        `preprocessor_config.json` under "preprocessor".
      source: where the config is, in words; "" where there is none.
    """

    weights: tuple[Path, ...]
    tokenizer: Path
    config: dict
    source: str


def find(name: str) -> ClipFiles:
    """The files of a CLIP by name or path.

    Args:
      name: "tiny", a key of `OPENAI`, a hub repository "owner/name", a folder, or a weights file.

    Raises:
      InputError: unknown name, missing file, or a download that failed.
    """
    if name == "tiny":
        return dataclasses.replace(_in_folder(TINY), source="its own config")
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.is_file() and path.suffix == ".bin":
        raise _pickle(path)
    if path.is_file():
        return ClipFiles((path,), _tokenizer_beside(path), *_config_in(path.parent))
    repository = OPENAI.get(name, name)
    looks_local = path.suffix in (".safetensors", ".pt") or name.startswith((".", "/", "~"))
    if looks_local or not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise InputError(
            f'clip="{name}" is no file or folder here and no known name; give a path, a hub '
            f"repository as owner/name, tiny, or one of {', '.join(OPENAI)}."
        )
    return _in_repository(repository)


def _in_folder(folder: Path) -> ClipFiles:
    weights = [folder / w for w in _WEIGHTS if (folder / w).is_file()][:1]
    if (folder / _INDEX).is_file() and not weights:
        weights = [folder / shard for shard in _shards(folder / _INDEX)]
    weights = weights or sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.pt"))[:1]
    if pickles := not weights and sorted(folder.glob("*.bin")):
        raise _pickle(pickles[0])
    if not weights:
        raise InputError(
            f"{folder} holds no .safetensors file; put the CLIP's weights there, with its "
            "tokenizer.json beside them."
        )
    return ClipFiles(tuple(weights), _tokenizer_beside(weights[0]), *_config_in(folder))


def _pickle(path: Path) -> InputError:
    return InputError(
        f"{path} is a pickle, and pickles are never loaded, since they can run code: take the "
        "model's .safetensors file, or convert this one where you trust it."
    )


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        sound = all(re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names)
    except (ValueError, KeyError, AttributeError, TypeError):
        sound = False
    if not sound:
        raise InputError(
            f"{index} is no index of safetensors shards beside it (a JSON object with weight_map): "
            "copy it again from where the weights came."
        )
    return names


def _tokenizer_beside(weights: Path) -> Path:
    from huggingface_hub import try_to_load_from_cache

    beside = weights.parent / "tokenizer.json"
    if beside.is_file():
        return beside
    cached = try_to_load_from_cache(OPENAI_VOCABULARY, "tokenizer.json")
    if isinstance(cached, str):
        return Path(cached)
    raise InputError(
        f"{weights} has no tokenizer.json beside it and the hub cache holds none: put the "
        f"tokenizer.json that belongs to the weights into {weights.parent} (OpenAI's is in the "
        f"hub repository {OPENAI_VOCABULARY})."
    )


def _config_in(folder: Path) -> tuple[dict, str]:
    return _read_configs(lambda name: folder / name if (folder / name).is_file() else None)


def _read_configs(find: Callable[[str], Path | None]) -> tuple[dict, str]:
    """The first config there is, with the pre-processing under "preprocessor", and where it is."""
    path = next(filter(None, map(find, _CONFIGS)), None)
    config, source = (_read_json(path), f"config {path}") if path else ({}, "")
    pixels = find(_PREPROCESSOR)
    return config | ({"preprocessor": _read_json(pixels)} if pixels else {}), source


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(
            f"{path} is no JSON object: copy it again, or remove it where the weights are OpenAI's."
        )
    return content


def _in_repository(repository: str) -> ClipFiles:
    whole = next(filter(None, (_fetch(repository, name) for name in _WEIGHTS)), None)
    weights = [whole] if whole else []
    if not whole and (index := _fetch(repository, _INDEX)):
        weights = [_fetch(repository, shard) for shard in _shards(index)]
    if not weights or None in weights:
        raise InputError(
            f"hub repository {repository} has no complete {_WEIGHTS[0]} or {_WEIGHTS[1]}, or "
            "the local cache holds only a part: connect to the hub, or name another one."
        )
    tokenizer = _fetch(repository, "tokenizer.json") or _fetch(OPENAI_VOCABULARY, "tokenizer.json")
    if not tokenizer:
        raise InputError(
            f"neither {repository} nor {OPENAI_VOCABULARY} has a tokenizer.json: give a folder "
            "that holds weights and tokenizer.json."
        )
    configs = _read_configs(lambda name: _fetch(repository, name))
    return ClipFiles(tuple(weights), tokenizer, *configs)


def _fetch(repository: str, name: str) -> Path | None:
    """The file in the hub's cache, downloaded if need be; None if the repository lacks it."""
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(repository, name)
    if isinstance(cached, str):
        return Path(cached)
    if cached is _CACHED_NO_EXIST:
        return None
    try:
        path = Path(hf_hub_download(repository, name))
    except LocalEntryNotFoundError as error:
        if _has_snapshot(repository):  # fetched by another tool, which did not ask for this file
            return None
        raise InputError(
            f"{repository} is no folder here, its {name} is not in the hub's local cache, and it "
            f"cannot be downloaded ({first_line(error)}): connect to the hub once, or give a path."
        ) from None
    except EntryNotFoundError:
        return None
    except Exception as error:  # the hub raises many kinds: network, HTTP, disk, repository
        raise InputError(
            f"{repository} is no folder here, and {name} of the hub repository of this name cannot "
            f"be downloaded ({first_line(error)}): check the name and the network."
        ) from None
    _check_hash(path, repository)
    return path


def _has_snapshot(repository: str) -> bool:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    return any(cache.glob("snapshots/*/*"))


def first_line(error: Exception) -> str:
    """What an error of the hub says, without what follows it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _check_hash(path: Path, repository: str) -> None:
    """Large files lie in the cache under their SHA-256: compare it once, after downloading."""
    blob = path.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return
    with blob.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != blob.name:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise InputError(
            f"{path.name} of hub repository {repository} arrived damaged (SHA-256 {digest}, "
            f"expected {blob.name}) and was removed: start again."
        )
