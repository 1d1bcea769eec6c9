"""A finished run in a repository of the hub, and back.

The repository holds of a run folder what predictions take, without the paths of the machine that it
was trained on, so that a downloaded one is a run folder. `ABOUT` says in what version, and the
SHA-256 of each file. Nothing in it is a pickle, and it names no code.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sotglp_jax import __version__, clip, workdir
from sotglp_jax.clip.hub import first_line
from sotglp_jax.errors import InputError
from sotglp_jax.paths import HUB, AnyPath, place
from sotglp_jax.trained.finished import Finished

VERSION = 1
ABOUT = "sotglp.json"
TAKEN = (workdir.CONFIG, workdir.CLASSES, workdir.PARAMS, "results.json")
_NAME = r"[\w.-]+/[\w.-]+"
_ADDRESS = re.compile(rf"{HUB}({_NAME})(?:@([\w./-]+))?")


def locate(given: str | os.PathLike) -> AnyPath:
    """The path of what was trained: the one that is given, or of a download from the hub.

    Args:
      given: a path, or "hf:owner/name" with "@" and a branch, tag or commit behind it or without.

    Raises:
      InputError: nothing can be downloaded, or it is no run, a newer one, or a damaged one.
    """
    address = os.fspath(given)
    if not address.startswith(HUB):
        return place(given)
    if not (parts := _ADDRESS.fullmatch(address)):
        raise InputError(f"{address} names no run on the hub: write {HUB}owner/name.")
    folder = _download(address, *parts.groups())
    _check(folder, address)
    return folder


def _download(address: str, repository: str, revision: str | None) -> Path:
    """The newest state of the files; what is in the cache where the hub does not answer."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        folder = Path(hf_hub_download(repository, ABOUT, revision=revision)).parent
        for name in TAKEN:
            hf_hub_download(repository, name, revision=folder.name)  # which is the commit
        return folder
    except Exception as error:  # the hub raises many kinds: network, HTTP, disk, repository
        missing = isinstance(error, EntryNotFoundError)
        if missing and not isinstance(error, LocalEntryNotFoundError):
            raise _no_run(address) from None
        raise InputError(
            f"{address} cannot be downloaded ({first_line(error)}): check the name and the "
            "network; a private one needs a token in HF_TOKEN, or `hf auth login`."
        ) from None


def _check(folder: Path, address: str) -> None:
    """Raises `InputError` for what is no run, a newer one, a damaged one, or names code."""
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        version, maker, digests = about["version"], about["sotglp_jax"], dict(about["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise _no_run(address) from None
    if version != VERSION:
        raise InputError(
            f"{address} is a run in version {version} by sotglp_jax {maker}, and sotglp_jax "
            f"{__version__} here reads version {VERSION}: install that one."
        )
    for name in TAKEN:
        path = folder / name
        if digest(path.read_bytes()) != digests.get(name):
            raise _damaged(path, address)
    _check_method(json.loads((folder / workdir.CONFIG).read_text("utf-8")), address)


def _no_run(address: str) -> InputError:
    return InputError(
        f"{address} holds no run that `sotglp push` wrote: its {ABOUT}, or a file that belongs to "
        "it, is missing or damaged: name another one."
    )


def _damaged(path: Path, address: str) -> InputError:
    """Removes the file from the cache: it may be sound on the hub."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    return InputError(
        f"{path.name} of {address} is not the file that {ABOUT} describes, and was removed here: "
        "start again; where it stays so, the run has to be pushed again."
    )


def _check_method(settings: Mapping[str, Any], run: str | Path) -> None:
    if ":" in settings["method.name"]:
        raise InputError(
            f"{run} was trained with {settings['method.name']}, and runs with code of one's own "
            "are not shared on the hub, since who loads them would run it: share an export."
        )


def contents(run: Finished, clip_name: str = "") -> dict[str, bytes]:
    """The files of a repository that give the run back, by name.

    Args:
      run: what was trained; its folder holds the parameters.
      clip_name: under which others find its CLIP; "" where that is the run's own name for it.

    Raises:
      InputError: nothing was learned, the method is code of one's own, or others would not find
        the CLIP or find another one.
    """
    folder = run.run.workdir
    if not run.run.method.learns:
        raise InputError(f"{folder} is a run of zero-shot CLIP, which learned nothing to share.")
    _check_method(run.results["config"], folder)
    results = _without_folders(run.results) | {"clip_path": ""}
    name = _found_by_others(run, clip_name)
    results["config"]["clip.name"] = results["protocol"]["clip"] = name
    found = {
        workdir.CONFIG: workdir.to_json(results["config"]).encode(),
        workdir.CLASSES: workdir.to_json(run.run.dataset.class_names).encode(),
        workdir.PARAMS: (folder / workdir.PARAMS).read_bytes(),
        "results.json": workdir.to_json(results).encode(),
    }
    digests = {name: digest(content) for name, content in found.items()}
    about = {"version": VERSION, "sotglp_jax": __version__, "files": digests}
    return found | {ABOUT: workdir.to_json(about).encode()}


def _found_by_others(run: Finished, name: str) -> str:
    config = run.run.config.clip
    if not (name or run.run.clip.path):
        return config.name
    if not name:
        raise InputError(
            f"the CLIP of {run.run.workdir} lies in {run.run.clip.path}, where others have none: "
            "say with --clip=owner/name where the hub has it."
        )
    other = clip.load(name, config.activation, config.heads)
    if other.path:
        raise InputError(f"--clip={name} lies on this machine: give its name on the hub.")
    if other.fingerprint != run.run.settings["clip.sha256"]:
        raise InputError(
            f"--clip={name} is another CLIP than that of {run.run.workdir}: its weights, or what "
            "its config says of layer norms and pixels, differ."
        )
    return name


def _without_folders(value: Any) -> Any:
    """Results without the folders of this machine, which are nobody's business."""
    if isinstance(value, dict):
        return {_without_folders(key): _without_folders(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_without_folders(x) for x in value]
    if isinstance(value, str) and value.startswith(("/", "~", "gs://")):
        return f"./{Path(value).name}"
    return value


def digest(content: bytes) -> str:
    """The SHA-256 of a file, as `ABOUT` has it."""
    return hashlib.sha256(content).hexdigest()


def push(repository: str, files: Mapping[str, bytes | None], private: bool = False) -> str:
    """Puts files into a repository, which is made where there is none.

    Args:
      repository: owner/name.
      files: contents by name, `ABOUT` among them; None removes what an earlier push put there.
      private: whether a repository that is made is.

    Returns:
      The address of the commit.

    Raises:
      InputError: there is no token, the hub refuses, or the repository holds something else.
    """
    from huggingface_hub import HfApi, constants, get_token

    if not re.fullmatch(_NAME, repository):
        raise InputError(f'"{repository}" names no repository of the hub: write owner/name.')
    if not get_token():
        raise InputError(
            f"there is no token of the hub here: make one that may write at {constants.ENDPOINT}"
            "/settings/tokens, and put it into HF_TOKEN, or run `hf auth login`."
        )
    try:
        return _commit(HfApi(), repository, files, private)
    except InputError:
        raise
    except Exception as error:  # as above
        raise InputError(
            f"{repository} cannot be written ({first_line(error)}): check the name, the network, "
            "and whether your token may write there."
        ) from None


def _commit(api, repository: str, files: Mapping[str, bytes | None], private: bool) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api.create_repo(repository, private=private or None, exist_ok=True)
    there = {*api.list_repo_files(repository)} - {".gitattributes"}
    if there and ABOUT not in there:
        raise InputError(
            f"{repository} holds something else than a run, {min(there)}: choose another name."
        )
    operations = [CommitOperationAdd(name, x) for name, x in files.items() if x is not None]
    gone = [name for name, x in files.items() if x is None and name in there]
    operations += map(CommitOperationDelete, gone)
    message = f"A run by sotglp_jax {__version__}"
    return api.create_commit(repository, operations, commit_message=message).commit_url
