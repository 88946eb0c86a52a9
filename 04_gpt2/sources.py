"""Where documents come from: Hugging Face's hub, folders of parquet or JSON lines, texts; always in the same order.

Parquet, JSON lines and the hub are read through the library `datasets`. A local path is never looked for on the hub. JSON
lines are read as lines and each is parsed by itself, so that their other columns may differ from file to file, as those of
RedPajama do.
"""

import glob
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shared import corpora
from shared.cli import RunError, UsageError

from .documents import Source, cut_into_documents
from .hub import UnreachableError, commit_of
from .shards import MANIFEST

FINEWEB_EDU, FINEWEB_EDU_SUBSET = "HuggingFaceFW/fineweb-edu", "sample-10BT"
REDPAJAMA, REDPAJAMA_FILES = "togethercomputer/RedPajama-Data-1T-Sample", "*_sample.jsonl"
PLAYS = "shakespeare"
NAMES = ("fineweb-edu", "redpajama", PLAYS)
PARQUET, JSON_LINES = (".parquet",), (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")
ROWS = 256  # read at once


def open_source(
    name: str,
    subset: str = "",
    split: str = "train",
    revision: str = "",
    column: str = "text",
    download: bool = False,
    show_progress: bool = False,
) -> Source:
    """The source called `name`: one of NAMES, else a file or a folder, else a data set on the hub.

    show_progress is about a download. Raises UsageError if there is no such source, or if it holds no texts or has no such
    column; RunError if the hub cannot be reached.
    """
    load = partial(_load, show_progress=show_progress)
    given = {"subset": subset, "split": split, "revision": revision, "column": column, "download": download}
    if name == PLAYS:
        _require_defaults(name, given, ())
        plays = corpora.plays()
        whole = hashlib.sha256("\n".join(plays.values()).encode()).hexdigest()
        return _texts({"name": PLAYS, "sha256": whole}, {title: partial(StringIO, text) for title, text in plays.items()})
    if name == "redpajama":
        _require_defaults(name, given, ("revision", "column", "download"))
        commit = commit_of(REDPAJAMA, revision)
        if not commit:
            raise UnreachableError(
                f"HF_HUB_OFFLINE is set, and {name} needs the hub; give a folder of its files: --source FOLDER"
            )
        files = f"hf://datasets/{REDPAJAMA}@{commit}/{REDPAJAMA_FILES}"
        dataset = load("text", data_files=files, split="train", encoding="utf-8-sig", streaming=not download)
        description = {"name": REDPAJAMA, "revision": commit, "column": column, "downloaded": download}
        return _of_dataset(dataset, description, "text", json_column=column)
    if name == "fineweb-edu":
        name, subset, path = FINEWEB_EDU, subset or FINEWEB_EDU_SUBSET, None
    else:
        path = Path(name)
    if path and path.is_file() and not path.name.endswith(PARQUET + JSON_LINES):
        _require_defaults(name, given, ())
        return _text_file(path)
    if path and path.exists() and not subset:
        _require_defaults(name, given, ("column",))
        return _local_files(path, column)
    description = {"name": name, "subset": subset, "split": split, "column": column}
    if path and path.exists():
        _require_defaults(name, given, ("subset", "split", "column"))
        files = _listing(_files_in(path, PARQUET + JSON_LINES), path)
        dataset = load(str(path), name=subset, split=split, streaming=True)
        return _of_dataset(dataset, description | {"name": path.absolute().name, "files": files}, column)
    commit = commit_of(name, revision)
    download = download or not commit  # which the cache of an earlier download then serves
    dataset = load(name, name=subset or None, split=split, revision=commit or None, streaming=not download)
    if not commit:  # without a network: the cache knows
        commit = Path(dataset.cache_files[0]["filename"]).parent.name
        if revision not in ("", commit):
            raise UsageError(f"the cache holds {name} as of revision {commit}, not {revision}; give that one, or none")
    # A download is cut into other files than a stream, so that the one cannot go on with the other.
    return _of_dataset(dataset, description | {"revision": commit, "downloaded": download}, column)


def _require_defaults(name: str, given: dict[str, Any], but_for: Sequence[str]) -> None:
    """Raises UsageError if a flag is given that means nothing for this source."""
    defaults = {"subset": "", "split": "train", "revision": "", "column": "text", "download": False}
    if idle := [flag for flag, value in given.items() if value != defaults[flag] and flag not in but_for]:
        raise UsageError(f"--{idle[0]} means nothing for --source {name}; leave it out, or give the source that it is about")


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


def _local_files(path: Path, column: str) -> Source:
    """The parquet files or the JSON lines in a folder, or one such file."""
    if (path / MANIFEST).exists():
        raise UsageError(f"{path} holds token shards, and texts are expected; training takes such a folder as --data")
    if "::" in str(path.absolute()):
        raise UsageError(f"the library datasets cannot read {path.absolute()}, whose name holds ::; move it elsewhere")
    parquet, lines = (_files_in(path, suffixes) for suffixes in (PARQUET, JSON_LINES))
    if bool(parquet) == bool(lines):
        held = "both parquet files and JSON lines" if parquet else "no file that ends in " + ", ".join(PARQUET + JSON_LINES)
        raise UsageError(f"{path} holds {held}; give a folder of parquet files or one of JSON lines, each row with a text")
    files = parquet or lines
    if not any(file.stat().st_size for file in files):
        raise UsageError(f"{path} holds nothing but empty files; give one with rows that have a text")
    description = {"name": path.absolute().name, "column": column, "files": _listing(files, path)}
    if parquet:  # files without a row often have no type of their own either
        files = [file for file in files if _rows_of_parquet(file, column)] or files[:1]
    names = [str(file) for file in files]
    patterns = [glob.escape(name) for name in names]
    if lines:
        dataset = _load("text", data_files=patterns, split="train", encoding="utf-8-sig", streaming=True)
        sizes = [] if any(file.suffix in (".gz", ".zst") for file in files) else [file.stat().st_size for file in files]
        return _of_dataset(dataset, description, "text", json_column=column, sizes=sizes, names=names)
    sizes = [_rows_of_parquet(file, column) for file in files]
    dataset = _load("parquet", data_files=patterns, split="train", columns=[column], batch_size=ROWS, streaming=True)
    return _of_dataset(dataset, description, column, sizes=sizes, names=names)


def _rows_of_parquet(file: Path, column: str) -> int:
    """How many rows a file has. Raises UsageError if it is not parquet, or `column` is not there or holds no text."""
    try:
        metadata = pq.read_metadata(file)
        schema = metadata.schema.to_arrow_schema()
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"{file} is not a parquet file: {str(error).partition(chr(10))[0]}") from None
    if column not in schema.names:
        raise UsageError(f"{file} has no column {column}; it has {', '.join(schema.names)}; give one of them by --column")
    kind = schema.field(column).type
    if (kind.value_type if pa.types.is_dictionary(kind) else kind) not in (pa.string(), pa.large_string(), pa.null()):
        raise UsageError(f"the column {column} of {file} holds {kind}, and text is expected")
    return metadata.num_rows


def _of_dataset(
    dataset: Any,
    description: dict[str, Any],
    column: str,
    json_column: str | None = None,
    sizes: Sequence[int] = (),
    names: Sequence[str] = (),
) -> Source:
    if not json_column:
        _require_text(dataset, column, str(description["name"]))
    known = dataset.info.splits.get(str(description.get("split"))) if dataset.info.splits and not json_column else None
    if hasattr(dataset, "to_iterable_dataset"):  # it has been downloaded
        dataset = dataset.to_iterable_dataset(num_shards=max(1, min(1024, len(dataset) // 1000)))
    stream: Any = dataset.select_columns([column])
    n_files = stream.num_shards
    assert not names or len(names) == n_files, "the library reads other files than it was given"
    names = names or [f"file {i + 1} of {n_files} of {description['name']}" for i in range(n_files)]
    if not sizes and known and known.num_examples:
        sizes = [known.num_examples // n_files] * n_files

    def read(file: int, row: int) -> Iterator[pa.Array]:
        of_file = stream.shard(num_shards=n_files, index=file).skip(row).with_format("arrow")
        for table in of_file.iter(batch_size=ROWS):
            yield table[column].combine_chunks()

    return Source(description, names, read, json_column, sizes)


def _require_text(dataset: Any, column: str, name: str) -> None:
    """Raises UsageError if the data set has no such column, or it holds no text; RunError if that cannot be read."""
    try:
        first: Any = {} if dataset.features else next(iter(dataset), {})
    except Exception as error:  # as in `pieces`
        raise RunError(f"{name} cannot be read: {str(error).partition(chr(10))[0]}") from None
    columns = dataset.features or first
    if column not in columns:
        raise UsageError(f"{name} has no column {column}; it has {', '.join(columns)}; give one of them by --column")
    kind = getattr(columns[column], "dtype", type(columns[column]).__name__)
    if kind not in ("string", "large_string", "str"):
        raise UsageError(f"the column {column} of {name} holds {kind}, and text is expected")


def _load(path: str, streaming: bool, show_progress: bool = False, **arguments: Any) -> Any:
    """What datasets.load_dataset gives, a Dataset or an IterableDataset, with its errors as one sentence."""
    import datasets  # takes seconds, which the workers and those who read texts need not spend

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    (datasets.enable_progress_bars if show_progress else datasets.disable_progress_bars)()
    try:
        return datasets.load_dataset(path, streaming=streaming, **arguments)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        reason = f"{arguments.get('data_files', path)} cannot be opened by the library datasets ({said})"
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise RunError(f"{reason}; try again, or fetch it where there is a network and give the folder") from None
        raise UsageError(reason) from None


def _files_in(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The file `path`, or those in the folder and its folders, if their names end so; by path, hidden ones left out."""
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    visible = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    return sorted((file for file in visible if file.name.endswith(suffixes)), key=Path.as_posix)


def _listing(files: Sequence[Path], folder: Path) -> dict[str, Any]:
    """How many files there are and a digest of their names and sizes, by which a folder that has changed is noticed."""
    listed = "\n".join(f"{file.relative_to(folder)} {file.stat().st_size}" for file in files)
    return {"count": len(files), "sha256_of_names_and_sizes": hashlib.sha256(listed.encode()).hexdigest()}
