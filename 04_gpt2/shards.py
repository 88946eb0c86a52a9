"""Token shards: files of tokens in the layout that llm.c and the speed-run community use, read as one long array.

A shard is a header of 256 numbers (int32, little-endian: magic number, version, count of the tokens, zeros) and then the
tokens as uint16. A folder that `04_gpt2.data` has prepared also holds a manifest and the tokenizer; published folders, such
as Hugging Face's karpathy/fineweb-edu-100B-gpt2-token-shards, hold shards alone, with train or val in each file's name.
"""

import hashlib
import json
import mmap
import os
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.cli import UsageError

from .bpe import BytePairTokenizer
from .sealed import write_whole
from .tokenizer import gpt2_tokenizer

if sys.platform != "win32":
    import resource

MAGIC, VERSION, HEADER = 20240520, 1, 1024  # the header's first two numbers, its size in bytes
TOKEN = np.dtype("<u2")
SPLITS: tuple[str, ...] = ("train", "val")
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
PROGRESS = "progress.json"  # beside shards whose preparation is not finished

Tokens = NDArray[np.uint16]  # (N,)


class Shards:
    """The tokens of several shards as one array (N,) that stays on the disk: `shards[a:b]` reads these, wherever they lie.

    With `read_ahead` the operating system reads on beyond what is asked for, as is good for tokens taken in order or for a
    disk across a network; without, a few tokens from anywhere cost no more than the pages that hold them.
    Raises UsageError, naming the file, if one of `paths` is not a whole shard, or later if an id is not below `vocab_size`.
    """

    def __init__(self, paths: Sequence[Path], vocab_size: int, read_ahead: bool = False, sha256s: Sequence[str] = ()):
        self.paths, self.vocab_size, self._read_ahead, self._sha256s = tuple(paths), vocab_size, read_ahead, sha256s
        self.ends = list(accumulate(count_tokens(path) for path in paths))  # place after the last token of each shard
        self._firsts = [0, *self.ends]
        self._mapped = lru_cache(maxsize=_open_at_once())(self._map)

    @property
    def sha256(self) -> str:
        """Digest of the shards' names, sizes and, where a manifest says them, their own digests; the files are not read."""
        listed = [path.name for path in self.paths], self.ends, list(self._sha256s)
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, which: slice) -> Tokens:
        start, stop, step = which.indices(len(self))
        if step != 1:
            raise ValueError(f"tokens are read in order, step 1, not {step}")
        pieces, index = [], bisect_right(self.ends, start)
        while start < stop:
            first = self._firsts[index]
            piece = self._mapped(index)[start - first : stop - first]
            if len(piece) and piece.max() >= self.vocab_size:
                require_ids_below(self.vocab_size, piece, self.paths[index])
            pieces.append(piece if stop <= self.ends[index] and not pieces else piece.copy())  # lets go of the file
            index += 1
            start = self._firsts[index]
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, TOKEN), *pieces])

    def _map(self, index: int) -> Tokens:
        with self.paths[index].open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if not self._read_ahead and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, TOKEN, offset=HEADER)


def _open_at_once() -> int:
    """How many shards may be open: Python holds a file for each, of which systems allow 256, a thousand or a million."""
    if sys.platform == "win32":
        return 512
    return max(1, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 2**16) // 4)


def header(n_tokens: int) -> bytes:
    """The first 1,024 bytes of a shard with `n_tokens` tokens."""
    numbers = np.zeros(HEADER // 4, dtype="<i4")
    numbers[:3] = MAGIC, VERSION, n_tokens
    return numbers.tobytes()


def count_tokens(path: Path) -> int:
    """How many tokens the shard holds. Raises UsageError if it is not a whole shard."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            numbers = np.frombuffer(file.read(HEADER)[: size // 4 * 4], dtype="<i4")
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; fetch or prepare it again") from None
    except OSError as error:
        raise UsageError(f"{path} is not a token shard: {error.strerror}") from None
    if size < HEADER:
        raise UsageError(f"{path} is not a token shard: it has {size:,} bytes, and the header alone takes {HEADER:,}")
    if numbers[0] != MAGIC:
        raise UsageError(f"{path} is not a token shard: it begins with {numbers[0]}, not with the magic number {MAGIC}")
    if numbers[1] != VERSION:
        raise UsageError(f"{path} is a token shard of version {numbers[1]}; version {VERSION} (uint16 tokens) is expected")
    if numbers[2] < 0 or size != HEADER + TOKEN.itemsize * int(numbers[2]):
        raise UsageError(
            f"{path} is cut off or altered: its header says {numbers[2]:,} tokens, which take "
            f"{HEADER + TOKEN.itemsize * int(numbers[2]):,} bytes, and it has {size:,}; fetch or prepare it again"
        )
    return int(numbers[2])


def read_tokens(path: Path, n_tokens: int = 2**23) -> Iterator[Tokens]:
    """The tokens of a shard from the first to the last, `n_tokens` at a time. Raises UsageError if it is not a whole shard."""
    left = count_tokens(path)
    with path.open("rb") as file:
        file.seek(HEADER)
        while left:
            tokens = np.frombuffer(file.read(min(left, n_tokens) * TOKEN.itemsize), TOKEN)
            left -= len(tokens)
            yield tokens


def require_ids_below(vocab_size: int, tokens: Tokens, path: Path) -> None:
    """Raises UsageError, naming the shard `path` that they come from, if an id is beyond the vocabulary."""
    if len(tokens) and (highest := int(tokens.max())) >= vocab_size:
        raise UsageError(
            f"{path} holds the id {highest}, beyond the {vocab_size:,} ids of its tokenizer; fetch or prepare it again"
        )


def fingerprint(tokenizer: BytePairTokenizer) -> str:
    """A digest that two tokenizers share if they give the same ids: of the pattern, each id's bytes and the special tokens."""
    content = [tokenizer.pattern, [token.hex() for token in tokenizer.tokens], list(tokenizer.specials)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A shard as the manifest lists it; sha256 is the digest of the whole file."""

    name: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds and what it was made from.

    settings        all that the tokens depend on: source, tokenizer, shares, sizes
    documents       how many there are of each split
    without_text    how many rows of the source had no text and were left out
    """

    settings: dict[str, Any]
    documents: dict[str, int]
    without_text: int
    shards: tuple[Entry, ...]

    def save(self, folder: Path) -> None:
        """Write manifest.json as a whole: a folder that has one is finished."""
        write_whole(folder / MANIFEST, (json.dumps(asdict(self), indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """The manifest of a prepared folder. Raises UsageError if it cannot be read as one."""
        try:
            content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            manifest = cls(**content | {"shards": tuple(Entry(**entry) for entry in content["shards"])})
            described = manifest.settings["tokenizer"]
            texts = [described["sha256"], *(text for entry in manifest.shards for text in (entry.name, entry.sha256))]
            numbers = [described["vocab_size"], *(entry.tokens for entry in manifest.shards), *manifest.documents.values()]
            if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
                raise ValueError("a text or a number is expected where it has something else")
            if any(Path(entry.name).name != entry.name for entry in manifest.shards):
                raise ValueError("it names a shard outside the folder")
        except OSError as error:
            raise UsageError(f"cannot read {folder / MANIFEST}: {error.strerror}") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{folder / MANIFEST} is not a manifest of token shards ({type(error).__name__}: {error})"
            ) from None
        return manifest

    def of(self, split: str) -> list[Entry]:
        """The shards of "train" or "val", in order."""
        return [entry for entry in self.shards if entry.name.startswith(split)]


def shard_paths(folder: Path) -> dict[str, list[Path]]:
    """The shards of each split in a folder, in order: those of the manifest, or else by the names of the files.

    Raises UsageError if there are none, if one is missing or has another count than the manifest says.
    """
    if (folder / MANIFEST).exists():
        manifest = Manifest.load(folder)
        for entry in manifest.shards:
            if (found := count_tokens(folder / entry.name)) != entry.tokens:
                raise UsageError(f"{folder / entry.name} holds {found:,} tokens; {MANIFEST} says {entry.tokens:,}")
        return {split: [folder / entry.name for entry in manifest.of(split)] for split in SPLITS}
    if (folder / PROGRESS).exists():
        raise UsageError(f"the preparation of {folder} is not finished; give the command that began it (04_gpt2.data) again")
    of_training = {path for path in folder.glob("*.bin") if "train" in path.name}
    of_validation = {path for path in folder.glob("*.bin") if "val" in path.name} - of_training  # interval_train.bin
    found = {"train": sorted(of_training), "val": sorted(of_validation)}
    if not any(found.values()) and any(folder.glob("part-*-of-*")):
        raise UsageError(f"{folder} holds parts that are not joined yet; python -m 04_gpt2.data merge {folder} does that")
    if not any(found.values()):
        raise UsageError(
            f"{folder} holds neither {MANIFEST} nor shards with train or val in their names (.bin); "
            f"python -m 04_gpt2.data --source ... --to {folder} prepares it"
        )
    return found


def tokenizer_of(folder: Path, read: bool = False) -> BytePairTokenizer:
    """The tokenizer that a folder's manifest names; GPT-2's, if it has no manifest.

    GPT-2's comes with the packages, and the folder's copy for others is read only if `read` says so. Raises UsageError if a
    tokenizer cannot be read, or if it is another one than the shards were made with.
    """
    if not (folder / MANIFEST).exists():
        return gpt2_tokenizer()
    described = Manifest.load(folder).settings["tokenizer"]
    try:
        at_hand = described.get("name") == "gpt2" and not read
        tokenizer = gpt2_tokenizer() if at_hand else BytePairTokenizer.load(folder / TOKENIZER)
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / TOKENIZER}, the tokenizer of these shards, cannot be read: {error}") from None
    if described["sha256"] != fingerprint(tokenizer):
        raise UsageError(
            f"{folder / MANIFEST} was made with another tokenizer than {TOKENIZER} beside it: fingerprints "
            f"{described['sha256'][:12]} and {fingerprint(tokenizer)[:12]}; bring the right one back, or prepare anew"
        )
    return tokenizer
