"""Where documents come from: Hugging Face's hub, folders of parquet or JSON lines, texts; always in the same order.

Parquet, JSON lines and the hub are read through the library `datasets`. A local path is never looked for on the hub. JSON
lines are read as lines and each is parsed by itself, so that their other columns may differ from file to file, as those of
RedPajama do.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shared import corpora
from shared.cli import RunError, UsageError

from .hub import commit_of

if TYPE_CHECKING:
    from datasets import IterableDataset

FINEWEB_EDU, FINEWEB_EDU_SUBSET = "HuggingFaceFW/fineweb-edu", "sample-10BT"
REDPAJAMA, REDPAJAMA_FILES = "togethercomputer/RedPajama-Data-1T-Sample", "*_sample.jsonl"
PLAYS = "shakespeare"
NAMES = ("fineweb-edu", "redpajama", PLAYS)
PARQUET, JSON_LINES = (".parquet",), (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")
DOCUMENT = 8_000  # characters after which a text is cut at the next blank line; at the next line end after four times as many
ROWS, PIECE = 256, 2**20  # rows that are read at once; bytes of text that one worker takes at a time


@dataclass(frozen=True)
class Source:
    """Rows of text in a fixed order, spread over files.

    description     what the manifest says of it: all that decides which texts come in which order
    files           a name for each file, for messages
    read            (file, row) -> the rows of that file from `row` on, as arrays of texts
    json_column     None if rows are documents; else rows are JSON lines and the document is their value of that name
    sizes           of each file, in rows, or of JSON lines in bytes, to tell how much is left; empty if not known
    """

    description: dict[str, Any]
    files: Sequence[str]
    read: Callable[[int, int], Iterator[pa.Array]]
    json_column: str | None = None
    sizes: Sequence[int] = field(default_factory=list)


@dataclass(frozen=True)
class Piece:
    """Rows that follow on each other, as much as a worker takes at a time."""

    rows: pa.Array
    file: int
    first_row: int

    @property
    def next_row(self) -> int:
        """The first row of the file that comes after these."""
        return self.first_row + len(self.rows)


def open_source(
    name: str, subset: str = "", split: str = "train", revision: str = "", column: str = "text", download: bool = False
) -> Source:
    """The source called `name`: one of NAMES, else a file or a folder, else a data set on the hub.

    Raises UsageError if there is none, if it holds no texts or has no such column; RunError if the hub cannot be reached.
    """
    if name == PLAYS:
        plays = corpora.plays()
        whole = hashlib.sha256("\n".join(plays.values()).encode()).hexdigest()
        return _texts({"name": PLAYS, "sha256": whole}, {title: partial(StringIO, text) for title, text in plays.items()})
    if name in NAMES:
        commit = commit_of(REDPAJAMA if name == "redpajama" else FINEWEB_EDU, revision)
        if name == "redpajama":
            files = f"hf://datasets/{REDPAJAMA}@{commit}/{REDPAJAMA_FILES}"
            dataset = _load("text", data_files=files, split="train", streaming=not download)
            return _of_dataset(dataset, {"name": REDPAJAMA, "revision": commit, "column": column}, "text", json_column=column)
        name, subset, revision = FINEWEB_EDU, subset or FINEWEB_EDU_SUBSET, commit
    path = Path(name)
    if path.is_file() and not path.name.endswith(PARQUET + JSON_LINES):
        return _text_file(path)
    if path.exists() and not subset:
        return _local_files(path, column)
    if path.exists():
        dataset = _load(str(path), name=subset, split=split, streaming=True)
        description = {"name": path.absolute().name, "subset": subset, "split": split, "column": column}
        return _of_dataset(dataset, description | {"files": _listing(_files_in(path, PARQUET + JSON_LINES), path)}, column)
    commit = commit_of(name, revision)
    dataset = _load(name, name=subset or None, split=split, revision=commit, streaming=not download)
    description = {"name": name, "subset": subset, "split": split, "revision": commit, "column": column}
    return _of_dataset(dataset, description, column)


def pieces(source: Source, files: range, row: int) -> Iterator[Piece]:
    """The rows of `files`, from `row` of the first one on. Raises RunError, naming the file, if one cannot be read."""
    for file in files:
        try:
            for rows in _of_size(source.read(file, row), PIECE):
                yield Piece(rows, file, row)
                row += len(rows)
        except (RunError, UsageError):
            raise
        except Exception as error:  # pyarrow, datasets and the HTTP library under them raise all kinds
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise RunError(
                f"{source.files[file]} cannot be read beyond row {row:,}: {reason}; finished shards stay, "
                f"and the same command goes on when that is put right"
            ) from None
        row = 0


def texts_of(piece: Piece, source_file: str, json_column: str | None) -> Iterator[str | None]:
    """The documents of a piece; None for a row without text. Raises UsageError, naming the line, if it has no such column."""
    for row, value in enumerate(piece.rows.to_pylist(), start=piece.first_row):
        if json_column is None or not value:
            yield value
            continue
        try:
            content = json.loads(value)
        except ValueError as error:
            raise UsageError(f"line {row + 1:,} of {source_file} is not JSON: {error}") from None
        if not isinstance(content, dict) or not isinstance(content.get(json_column, 0), str | None):
            listed = ", ".join(content) if isinstance(content, dict) else type(content).__name__
            raise UsageError(
                f"line {row + 1:,} of {source_file} has no text called {json_column}; it has {listed}; give --column"
            )
        text = content[json_column]
        # JSON can spell half of a surrogate pair, which is no character; tiktoken puts U+FFFD in its place too
        yield text and text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text_file(path: Path) -> Source:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None

    def lines() -> Iterator[str]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            while line := file.readline(2**20):
                yield line

    return _texts({"name": path.name, "sha256": digest}, {str(path): lines})


def _texts(description: dict[str, Any], texts: dict[str, Callable[[], Iterable[str]]]) -> Source:
    """Each of `texts`, which are functions that give lines, cut into documents."""

    def read(file: int, row: int) -> Iterator[pa.Array]:
        lines = list(texts.values())[file]()
        for number, document in enumerate(cut_into_documents(lines)):
            if number >= row:
                yield pa.array([document])

    return Source(description, list(texts), read)


def cut_into_documents(lines: Iterable[str]) -> Iterator[str]:
    """Consecutive lines together, cut after a blank line once there are 8,000 characters, after any once there are 32,000."""
    document, size = [], 0
    for line in lines:
        document.append(line)
        size += len(line)
        if size >= (4 * DOCUMENT if line.strip() else DOCUMENT):
            yield "".join(document)
            document, size = [], 0
    if document:
        yield "".join(document)


def _local_files(path: Path, column: str) -> Source:
    """The parquet files or the JSON lines in a folder, or one such file."""
    parquet, lines = (_files_in(path, suffixes) for suffixes in (PARQUET, JSON_LINES))
    if bool(parquet) == bool(lines):
        held = "both parquet files and JSON lines" if parquet else "no file that ends in " + ", ".join(PARQUET + JSON_LINES)
        raise UsageError(f"{path} holds {held}; give a folder of parquet files or one of JSON lines, each row with a text")
    files = parquet or lines
    description = {"name": path.absolute().name, "column": column, "files": _listing(files, path)}
    names = [str(file) for file in files]
    if lines:
        dataset = _load("text", data_files=names, split="train", streaming=True)
        sizes = [] if any(file.suffix in (".gz", ".zst") for file in files) else [file.stat().st_size for file in files]
        return _of_dataset(dataset, description, "text", json_column=column, sizes=sizes, names=names)
    try:
        sizes = [pq.read_metadata(file).num_rows for file in files]
    except (OSError, pa.ArrowInvalid) as error:
        bad = next(file for file in files if not _is_parquet(file))
        raise UsageError(f"{bad} is not a parquet file: {str(error).partition(chr(10))[0]}") from None
    dataset = _load("parquet", data_files=names, split="train", streaming=True, batch_size=ROWS)
    return _of_dataset(dataset, description, column, sizes=sizes, names=names)


def _of_dataset(
    dataset: "IterableDataset",
    description: dict[str, Any],
    column: str,
    json_column: str | None = None,
    sizes: Sequence[int] = (),
    names: Sequence[str] = (),
) -> Source:
    features = dataset.features or dict.fromkeys(next(iter(dataset), {}), None)
    if column not in features:
        raise UsageError(
            f"{description['name']} has no column {column}; it has {', '.join(features)}; give one of them by --column"
        )
    if dataset.features and getattr(features[column], "dtype", "") not in ("string", "large_string"):
        raise UsageError(f"the column {column} of {description['name']} holds {features[column]}, and text is expected")
    n_files = dataset.num_shards
    rows = dataset.select_columns([column])

    def read(file: int, row: int) -> Iterator[pa.Array]:
        of_file = rows.shard(num_shards=n_files, index=file).skip(row).with_format("arrow")
        table: Any
        for table in of_file.iter(batch_size=ROWS):
            yield table[column].combine_chunks()

    names = names or [f"file {i + 1} of {n_files} of {description['name']}" for i in range(n_files)]
    if not sizes and dataset.info.splits and not json_column:
        known = dataset.info.splits.get(str(description.get("split")))
        sizes = [known.num_examples // n_files] * n_files if known and known.num_examples else []
    return Source(description, names, read, json_column, sizes)


def _load(path: str, streaming: bool, **arguments: Any) -> "IterableDataset":
    """What datasets.load_dataset gives, with its errors as one sentence."""
    import datasets  # takes seconds, which the workers and those who read texts need not spend

    datasets.logging.set_verbosity_error()
    try:
        dataset = datasets.load_dataset(path, streaming=streaming, **arguments)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        reason = f"{arguments.get('data_files', path)} cannot be opened by the library datasets ({said})"
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise RunError(f"{reason}; try again, or fetch it where there is a network and give the folder") from None
        raise UsageError(reason) from None
    if isinstance(dataset, datasets.Dataset):
        dataset = dataset.to_iterable_dataset(num_shards=max(1, min(1024, len(dataset) // 1000)))
    return dataset


def _of_size(arrays: Iterator[pa.Array], limit: int) -> Iterator[pa.Array]:
    """The same rows in arrays of about `limit` bytes, or of one row that is larger."""
    waiting: list[pa.Array] = []
    for array in arrays:
        waiting.append(array)
        if sum(each.nbytes for each in waiting) >= limit:
            yield from _cut(pa.concat_arrays(waiting), limit)
            waiting = []
    if waiting:
        yield from _cut(pa.concat_arrays(waiting), limit)


def _cut(rows: pa.Array, limit: int) -> Iterator[pa.Array]:
    lengths = pc.call_function("binary_length", [rows])
    ends = np.cumsum(lengths.fill_null(0).to_numpy())
    first = 0
    while first < len(rows):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield rows[first:last]
        first = last


def _files_in(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The file `path`, or those in the folder and its folders, if their names end so; by path, hidden ones left out."""
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    visible = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    return sorted((file for file in visible if file.name.endswith(suffixes)), key=Path.as_posix)


def _listing(files: Sequence[Path], folder: Path) -> dict[str, Any]:
    """How many files there are and a digest of their names and sizes, by which a folder that has changed is noticed."""
    listed = "\n".join(f"{file.relative_to(folder)} {file.stat().st_size}" for file in files)
    return {"count": len(files), "sha256_of_names_and_sizes": hashlib.sha256(listed.encode()).hexdigest()}


def _is_parquet(file: Path) -> bool:
    try:
        pq.read_metadata(file)
    except (OSError, pa.ArrowInvalid):
        return False
    return True
