"""A folder of token shards: begun, gone on with after a kill, shared by tasks on many machines, finished by its manifest.

What a kill interrupts goes on where the last shard was finished, and ends with the same files to the last byte.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from shared.cli import RunError, UsageError

from .bpe import END_OF_TEXT, BytePairTokenizer
from .documents import Piece, Source, pieces
from .sealed import PARTIAL, digest_of, locked, make_folder, write_whole
from .shard_writer import ShardWriter
from .shards import MANIFEST, PROGRESS, SPLITS, TOKENIZER, Manifest, fingerprint, read_tokens, shard_paths
from .tokenising import Tokenised, tokenise_all
from .tokenizer import gpt2_tokenizer

PART = re.compile(r"part-(\d{5,})-of-(\d{5,})")
OURS = re.compile(rf"((train|val)_\d{{6,}}\.bin|{MANIFEST}|{TOKENIZER}|{PROGRESS})({re.escape(PARTIAL)})?|{PART.pattern}")


@dataclass(frozen=True)
class Task:
    """Number `index` (from 1) of `count` that share a source's files; 1 of 1 is the whole."""

    index: int = 1
    count: int = 1

    def files(self, n_files: int) -> range:
        """The files that are this task's: consecutive ones, so that all tasks' one after the other are the source."""
        return range(n_files * (self.index - 1) // self.count, n_files * self.index // self.count)

    def folder(self, to: Path) -> Path:
        """Where this task writes."""
        return to if self.count == 1 else to / f"part-{self.index:05}-of-{self.count:05}"


class Told(NamedTuple):
    """How far a preparation has come."""

    tokens: int  # of this piece
    share: float | None  # of the source that is read; None if its size is not known
    file: str
    finished: list[str]  # shards, with this piece


def settings_of(
    source: dict[str, Any], tokenizer: BytePairTokenizer, val_share: float, shard_tokens: int, task: Task
) -> dict[str, Any]:
    """All that a folder's tokens depend on, as the manifest says it; `source` is a source's description.

    Raises UsageError if shards cannot hold the tokenizer's ids or if it has no <|endoftext|>.
    """
    if END_OF_TEXT not in tokenizer.specials:
        raise UsageError(f"the tokenizer has no {END_OF_TEXT}, with which each document begins")
    if tokenizer.vocab_size > 2**16:
        raise UsageError(f"the tokenizer has {tokenizer.vocab_size:,} ids; shards have room for 65,536 (uint16)")
    digest = fingerprint(tokenizer)
    name = "gpt2" if digest == fingerprint(gpt2_tokenizer()) else "of its own"
    return {
        "source": source,
        "tokenizer": {"name": name, "vocab_size": tokenizer.vocab_size, "sha256": digest},
        "val_share": val_share,
        "shard_tokens": shard_tokens,
        **({"task": f"{task.index}/{task.count}"} if task.count > 1 else {}),
    }


def prepare(
    source: Source,
    tokenizer: BytePairTokenizer,
    folder: Path,
    settings: dict[str, Any],
    *,
    task: Task,
    workers: int,
    overwrite: bool,
    stop_asked: Callable[[], int],
    tell: Callable[[Told], None],
) -> int:
    """Fill `folder` with the shards of the task's files and their manifest -> the signal that stopped it, or 0.

    settings: as in the manifest. Raises UsageError if the folder is taken or was begun with other settings, RunError if
    something fails on the way; finished shards stay, and the same call goes on.
    """
    if task.count > 1:
        require_siblings(folder, settings)
    with claimed(folder, overwrite), disk_errors_in_words(folder):
        if (folder / MANIFEST).exists():
            require_same(folder, Manifest.load(folder).settings, settings)
            shard_paths(folder)  # all of them are there
            (folder / PROGRESS).unlink(missing_ok=True)
            return 0
        files = task.files(len(source.files))
        total = sum(source.sizes[i] for i in files) if source.sizes else 0
        writer = ShardWriter(folder, settings["shard_tokens"])
        state = State.load(folder, settings) or State(settings, writer.state(), files.start)
        writer.restore(state.written)
        state.save(folder, writer)
        tokenizer.save(folder / TOKENIZER)
        left = pieces(source, range(state.file, files.stop), state.row)
        try:
            for piece, made in tokenise_all(source, left, tokenizer, settings["val_share"], workers):
                finished = [entry.name for split in SPLITS for entry in writer.append(split, made.tokens[split])]
                state.note(piece, made, piece.rows.nbytes if source.json_column else len(piece.rows))
                share = min(1, state.read / total) if total else None
                tell(Told(sum(map(len, made.tokens.values())), share, source.files[piece.file], finished))
                if finished or stop_asked():
                    state.save(folder, writer)
                if stop_asked():
                    return stop_asked()
        except BrokenProcessPool:
            state.save(folder, writer)
            if stop_asked():  # a scheduler's SIGTERM goes to all processes
                return stop_asked()
            raise RunError(
                "a worker was ended from outside, perhaps for want of memory; what was written is saved, and the same command "
                "goes on (with fewer --workers)"
            ) from None
        finish(folder, writer, settings, state.documents, state.without_text)
    return 0


@dataclass
class State:
    """How far a preparation has come: what it has written, and the row of the source that is next."""

    settings: dict[str, Any]
    written: dict[str, Any]
    file: int
    row: int = 0
    read: int = 0  # rows, or of JSON lines bytes
    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    without_text: int = 0

    def note(self, piece: Piece, made: Tokenised, read: int) -> None:
        """Count a piece that has been written."""
        self.file, self.row, self.read = piece.file, piece.next_row, self.read + read
        for split, number in made.documents.items():
            self.documents[split] += number
        self.without_text += made.without_text

    def save(self, folder: Path, writer: ShardWriter) -> None:
        """Keep this, and what the writer has written, in the folder."""
        self.written = writer.state()
        write_whole(folder / PROGRESS, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, folder: Path, settings: dict[str, Any]) -> "State | None":
        """Where to go on, if a preparation was begun here. Raises UsageError if it was with other settings."""
        if not (folder / PROGRESS).exists():
            return None
        try:
            state = cls(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise UsageError(f"{folder / PROGRESS} cannot be read ({error}); begin again with --overwrite") from None
        require_same(folder, state.settings, settings)
        return state


def merge(folder: Path, overwrite: bool, tell: Callable[[str], None]) -> None:
    """Join the parts of all tasks in `folder` to the shards and the manifest that one run would have made.

    Raises UsageError if a part is missing, unfinished, altered or of other settings.
    """
    found = sorted(path for path in folder.glob("part-*") if PART.fullmatch(path.name))
    if not found:
        raise UsageError(f"{folder} holds no parts (part-00001-of-...); --task 1/N and so on make them")
    count = int(PART.fullmatch(found[0].name)[2])  # type: ignore[index]
    parts = [Task(i + 1, count).folder(folder) for i in range(count)]
    if strange := set(found) - set(parts):
        raise UsageError(f"{folder} holds parts of another number of tasks: {min(strange).name} beside {found[0].name}")
    if missing := [part.name for part in parts if not (part / MANIFEST).exists()]:
        raise UsageError(f"{len(missing)} of {count} parts are not finished yet: {', '.join(missing[:5])}")
    manifests = [Manifest.load(part) for part in parts]
    settings = {name: value for name, value in manifests[0].settings.items() if name != "task"}
    for i, (part, manifest) in enumerate(zip(parts, manifests, strict=True), start=1):
        require_same(part, manifest.settings, settings | {"task": f"{i}/{count}"})
    if (folder / PROGRESS).exists():
        raise UsageError(
            f"{folder} holds a preparation without tasks that is not finished; give its command again, or remove it"
        )
    documents = {split: sum(manifest.documents[split] for manifest in manifests) for split in SPLITS}
    n_tokens = sum(entry.tokens for manifest in manifests for entry in manifest.shards)
    with claimed(folder, overwrite), disk_errors_in_words(folder):
        if (folder / MANIFEST).exists():
            merged = Manifest.load(folder)
            require_same(folder, merged.settings, settings)
            if merged.documents != documents or sum(entry.tokens for entry in merged.shards) != n_tokens:
                raise UsageError(f"{folder} was joined from other parts than these; join them anew by --overwrite")
            shard_paths(folder)
            return
        writer = ShardWriter(folder, settings["shard_tokens"])
        writer.restore(writer.state())  # what an earlier merge has left
        for split in SPLITS:
            for part, manifest in zip(parts, manifests, strict=True):
                for entry in manifest.of(split):
                    if digest_of(part / entry.name) != entry.sha256:
                        raise UsageError(f"{part / entry.name} was altered: its SHA-256 is not the one in {MANIFEST}")
                    for tokens in read_tokens(part / entry.name):
                        writer.append(split, tokens)
                    tell(f"{part.name}/{entry.name}")
        shutil.copyfile(parts[0] / TOKENIZER, folder / TOKENIZER)
        finish(folder, writer, settings, documents, sum(manifest.without_text for manifest in manifests))


def finish(folder: Path, writer: ShardWriter, settings: dict[str, Any], documents: dict[str, int], without_text: int) -> None:
    """Give the last shards their names and write the manifest, which says that the folder is finished.

    Raises UsageError if there is no document in it, unless it is one of several parts.
    """
    if not any(documents.values()) and "task" not in settings:
        raise UsageError(f"no row of {settings['source']['name']} has a text; {folder} is of no use")
    Manifest(settings, documents, without_text, tuple(writer.finish())).save(folder)
    (folder / PROGRESS).unlink(missing_ok=True)


def require_siblings(part: Path, settings: dict[str, Any]) -> None:
    """Raises UsageError if parts beside this one are of another number of tasks or other settings, so that none is in vain."""
    for other in sorted(path for path in part.parent.glob("part-*") if PART.fullmatch(path.name) and path != part):
        if other.name.rpartition("-")[2] != part.name.rpartition("-")[2]:
            raise UsageError(f"{part.parent} holds parts of another number of tasks: {other.name}; name another --to")
        if (other / MANIFEST).exists():
            require_same(other, Manifest.load(other).settings | {"task": settings["task"]}, settings)


@contextmanager
def claimed(folder: Path, overwrite: bool) -> Iterator[None]:
    """Make the folder this process's own. Raises UsageError if it is another's or holds what this command has not made."""
    try:
        make_folder(folder)
        handle = os.open(folder, os.O_RDONLY) if os.name != "nt" else -1  # Windows opens no folders
    except OSError as error:
        raise UsageError(f"cannot write into the folder {folder}: {error.strerror}") from None
    try:
        if handle >= 0 and not locked(handle):
            raise UsageError(f"another process is preparing data in {folder}; wait for it or name another folder")
        names = [path.name for path in folder.iterdir()]
        of_theirs = [name for name in names if not OURS.fullmatch(name)] or names * (names == [TOKENIZER])
        if strange := sorted(of_theirs):
            raise UsageError(f"{folder} holds {strange[0]}, which is none of this command's; name a new or empty folder")
        if overwrite:
            for name in sorted(name for name in names if not PART.fullmatch(name)):  # the manifest before the shards
                (folder / name).unlink()
        elif not {MANIFEST, PROGRESS} & set(names) and any(name.endswith(".bin") for name in names) and not _has_parts(folder):
            raise UsageError(f"{folder} holds shards from elsewhere; name another folder, or replace them by --overwrite")
        yield
    finally:
        if handle >= 0:
            os.close(handle)


@contextmanager
def disk_errors_in_words(folder: Path) -> Iterator[None]:
    """Raises RunError, which says where things stand, for what the system says of a disk that is full or gone."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{error.filename or folder} cannot be written or read: {error.strerror}; finished shards stay, and the same "
            f"command goes on when that is put right"
        ) from None


def require_same(folder: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises UsageError, naming what differs, if the data in `folder` were made with other settings than `now`."""
    before, after = _flat(then), _flat(now)
    differing = [name for name in before | after if before.get(name) != after.get(name)]
    if differing:
        listed = ", ".join(_difference(name, before.get(name), after.get(name)) for name in differing)
        raise UsageError(f"{folder} holds data made otherwise: {listed}; name another folder, or replace them by --overwrite")


def _difference(name: str, before: Any, now: Any) -> str:
    if "sha256" in name:  # digests say no more to a reader than that they differ
        return f"{name} has changed"
    return f"{name} was {before} and is {now}"


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name} ") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _has_parts(folder: Path) -> bool:
    return any(PART.fullmatch(path.name) for path in folder.iterdir())
