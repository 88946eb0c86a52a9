"""Where a published model's files lie: a folder on this machine, or Hugging Face's hub and the cache that its library keeps.
And which commit of a published data set is meant.

HF_HOME (where the cache is), HF_ENDPOINT (another server) and HF_HUB_OFFLINE (the cache only) are honoured, as everywhere.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from huggingface_hub import _CACHED_NO_EXIST, HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from shared.cli import RunError, UsageError

CONFIG = "config.json"
# One of these is the weights, the first that is there; an index names the files over which large ones are spread.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"  # the first, or else the other two


class UnreachableError(RunError):
    """The files are not in the cache, and the hub does not answer or may not be asked."""


def find(name: str | Path, with_tokenizer: bool = False) -> Path:
    """The folder `name`, or else the cache's folder with the files of the hub's model of that name. What the cache holds is
    taken as it is, without asking the hub; the rest is downloaded.

    Raises UsageError if there is no such model, UnreachableError if that cannot be known, RunError if a download breaks off.
    """
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists():
        raise UsageError(f"{name} is a file; the folder of a model is expected, or its name on Hugging Face's hub")
    folder = _download(str(name), CONFIG).parent
    commit = folder.name  # of all files, should the hub's model change in between
    found = _first(str(name), WEIGHTS, commit)
    for shard in shards(found) if found else []:
        with suppress(EntryNotFoundError):  # then weight_files says what is missing
            _download(str(name), shard.name, commit)
    if with_tokenizer and _first(str(name), (TOKENIZER, VOCABULARY), commit) == folder / VOCABULARY:
        _first(str(name), (MERGES,), commit)
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The files that together hold a model's weights. Raises UsageError if there are none, or if one is missing."""
    for path in (folder / name for name in WEIGHTS):
        if path.is_file():
            return shards(path)
    raise UsageError(f"{folder} holds no weights: {WEIGHTS[0]} is expected, or an index of several files, or {WEIGHTS[2]}")


def shards(path: Path) -> list[Path]:
    """The files that an index names, or `path` itself if it is none. Raises UsageError if it cannot be read as an index."""
    if path.suffix != ".json":
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names:
            raise ValueError("it names no files")
        return [path.with_name(name) for name in names]  # with_name refuses all but the names of files
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is not an index of weights ({type(error).__name__}: {error})") from None


def commit_of(dataset: str, revision: str = "") -> str:
    """The commit that `revision` of a data set on the hub stands for now, the newest one if it is empty; "" where
    HF_HUB_OFFLINE says that the hub may not be asked.

    Raises UsageError if there is no such data set or revision, UnreachableError if that cannot be known.
    """
    hub = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        return ""
    try:
        return str(HfApi(endpoint=hub).dataset_info(dataset, revision=revision or None, timeout=30).sha)
    except HFValidationError:
        raise UsageError(f"{dataset} is not there, and it is no name of a data set on {hub} either") from None
    except GatedRepoError:
        raise UsageError(
            f"{hub}/datasets/{dataset} is only for those whom its owners let in: ask there, then run hf auth login"
        ) from None
    except RevisionNotFoundError:
        raise UsageError(f"the data set {dataset} on {hub} has no revision {revision}") from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"there is no file or folder {dataset} here and no public data set of that name on {hub}; "
            f"for a private one run hf auth login"
        ) from None
    except Exception as error:  # whatever the HTTP library raises
        raise UnreachableError(
            f"there is no file or folder {dataset} here, and as a data set it cannot be had: {hub} does not answer "
            f"({_said(error)}); try again with a network, or fetch it elsewhere and give its folder: --source FOLDER"
        ) from None


def _first(name: str, files: Sequence[str], commit: str) -> Path | None:
    """The first of `files` that the cache holds, else the first that the hub has; None if the model has none of them."""
    cached = {file: try_to_load_from_cache(name, file, revision=commit) for file in files}
    for path in cached.values():
        if isinstance(path, str):
            return Path(path)
    for file in files:
        if cached[file] is not _CACHED_NO_EXIST:
            with suppress(EntryNotFoundError):
                return _download(name, file, commit)
    return None


def _download(name: str, file: str, revision: str = "main") -> Path:
    """A file of the model, from the cache or the hub. Raises EntryNotFoundError if the model has no such file."""
    cache, hub = constants.HF_HUB_CACHE, constants.ENDPOINT
    try:
        if isinstance(cached := try_to_load_from_cache(name, file, revision=revision), str):
            return Path(cached)
        return Path(hf_hub_download(name, file, revision=revision))
    except HFValidationError:
        raise UsageError(f"{name} is not there, and it is no name of a model on {hub} either (such as gpt2)") from None
    except GatedRepoError:
        raise UsageError(f"{hub}/{name} is only for those whom its owners let in: ask there, then run hf auth login") from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"there is no folder {name} here and no public model of that name on {hub}; for a private one run hf auth login"
        ) from None
    except LocalEntryNotFoundError as error:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{hub} does not serve it ({_said(error)})"
        raise UnreachableError(
            f"there is no folder {name} here, {file} of a model {name} is not in the cache {cache}, and {reason}; "
            f"give a folder, or try again with a network"
        ) from None
    except EntryNotFoundError:
        raise
    except Exception as error:  # whatever the HTTP library under the hub's own raises when a transfer breaks off
        raise RunError(f"{file} of {name} could not be fetched from {hub}: {_said(error)}; the same command goes on") from None


def _said(error: Exception) -> str:
    """The first line of what a library's error, or the one behind it, says."""
    return str(error.__cause__ or error).partition("\n")[0]
