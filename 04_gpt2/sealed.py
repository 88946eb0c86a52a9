"""Files and folders that are whole or absent, and folders that tell when a byte of them has changed since.

Checkpoints are such folders. The file SHA256SUMS in each holds the digests of all others, in the format of the command
sha256sum, so that `sha256sum -c SHA256SUMS` checks them too.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

SUMS = "SHA256SUMS"
PARTIAL = ".partial"  # ends the name of a folder that is being written or removed


@contextmanager
def sealed(folder: Path) -> Iterator[Path]:
    """A new folder to fill within the block. At the end, once it is flushed to the disk, one move gives it the name `folder`.

    If anything fails on the way, nothing is left of it.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    try:
        yield partial
        (partial / SUMS).write_bytes(_lines({path.name: digest_of(path) for path in partial.iterdir()}))
        for path in (*partial.iterdir(), partial):
            flush(path)
        partial.rename(folder)
        flush(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def verify(folder: Path, names: Iterable[str]) -> None:
    """Raises ValueError, naming the file, unless the files `names` of a sealed folder are as they were written."""
    try:
        found = (folder / SUMS).read_bytes()
        digests = {name: digest for digest, name in (line.split("  ") for line in found.decode("ascii").splitlines())}
    except (OSError, ValueError):
        digests, found = {}, b""
    if not digests or _lines(digests) != found:
        raise ValueError(f"{folder / SUMS} is missing, cut off or altered")
    for name in names:
        if name not in digests:
            raise ValueError(f"{folder / SUMS} was cut off or altered: it does not name {name}")
        try:
            digest = digest_of(folder / name)
        except OSError as error:
            raise ValueError(f"{folder / name} cannot be read: {error.strerror}") from None
        if digest != digests[name]:
            raise ValueError(f"{folder / name} was cut off or altered: its SHA-256 is not the one in {SUMS}")


def remove(folder: Path) -> None:
    """Remove a sealed folder; it loses its name first, so that no half of it is ever taken for the whole."""
    shutil.rmtree(folder.rename(folder.with_name(folder.name + PARTIAL)))


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, so that a power cut does not take them back."""
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        flush(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is at any moment the old one or the new one, whole."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_bytes(content)
    flush(partial)
    partial.replace(path)
    flush(path.parent)


def locked(file: BinaryIO | int) -> bool:
    """Lock an open file or folder for this process until it ends, however that happens. False if another process holds it."""
    if sys.platform == "win32":
        return True  # has no such lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        return True
    return True


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Have the operating system send a file, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders; it writes their names with the files
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lines(digests: dict[str, str]) -> bytes:
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode("ascii")
