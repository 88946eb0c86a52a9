"""Where a published model's files lie: a folder on this machine, or Hugging Face's hub and the cache that its library keeps.

HF_HOME (where the cache is), HF_ENDPOINT (another server) and HF_HUB_OFFLINE (the cache only) are honoured, as everywhere.
"""

import json
from contextlib import suppress
from pathlib import Path

from huggingface_hub import _CACHED_NO_EXIST, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from shared.cli import RunError, UsageError

CONFIG = "config.json"
# One of these is the weights, the first that is there; an index names the files over which large ones are spread.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")


class UnreachableError(RunError):
    """The files are not in the cache, and the hub does not answer or may not be asked."""


def find(name: str | Path) -> Path:
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
    found = next((path for file in WEIGHTS if (path := _download_if_there(str(name), file, commit))), None)
    with suppress(EntryNotFoundError):  # then weight_files says what is missing
        for file in [shard.name for shard in shards(found)] if found else WEIGHTS[:1]:
            _download(str(name), file, commit)
    for file in TOKENIZER:
        _download_if_there(str(name), file, commit)
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
        if not names or any(Path(name).name != name for name in names):
            raise ValueError("it names no files beside it")
        return [path.with_name(name) for name in names]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is not an index of weights ({type(error).__name__}: {error})") from None


def _download_if_there(name: str, file: str, commit: str) -> Path | None:
    """A file of the model, from the cache or the hub; None if the model has no such file, as far as can be known."""
    if try_to_load_from_cache(name, file, revision=commit) is _CACHED_NO_EXIST:
        return None
    try:
        return _download(name, file, commit)
    except (EntryNotFoundError, UnreachableError):
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
        reason = (
            "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{hub} cannot be reached ({error.__cause__ or error})"
        )
        raise UnreachableError(
            f"{file} of {name} is not in the cache {cache}, and {reason}; give a local folder, or try again with a network"
        ) from None
    except EntryNotFoundError:
        raise
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"{file} of {name} could not be fetched from {hub}: {reason}; the same command goes on") from None
