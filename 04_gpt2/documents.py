"""What a source of documents is: rows of text in a fixed order, spread over files, and taken in pieces that fit in memory."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shared.cli import RunError, UsageError

PIECE = 2**20  # bytes of text that one worker takes at a time
DOCUMENT = 8_000  # characters after which a text is cut at the next blank line; at the next line end after four times as many


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
    try:
        values = piece.rows.to_pylist()
    except UnicodeDecodeError:  # parquet does not check: U+FFFD in place of what is not UTF-8
        values = [value and value.decode(errors="replace") for value in piece.rows.cast(pa.large_binary()).to_pylist()]
    for row, value in enumerate(values, start=piece.first_row):
        if json_column is None or not value or not value.strip():
            yield value if json_column is None else None
            continue
        line = f"line {row + 1:,} of {source_file}"
        try:
            content = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{line} is not JSON: {error}") from None
        if not isinstance(content, dict):
            raise UsageError(f"{line} is {content!r:.40}, and an object with a value called {json_column} is expected")
        if json_column not in content:
            raise UsageError(f"{line} has no value called {json_column}; it has {', '.join(content)}; give --column")
        text = content[json_column]
        if not isinstance(text, str | None):
            raise UsageError(f"{line} has {text!r:.40} as its {json_column}, and a text is expected")
        # JSON can spell half of a surrogate pair, which is no character; tiktoken puts U+FFFD in its place too
        yield text and text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


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
