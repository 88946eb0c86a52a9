"""From tokens to shards: each split's tokens are cut into files of one size as they come, whole ones only under their names.

A shard that is not full yet lies beside the others as train_000007.bin.partial. What `state` says is enough to go on after a
kill at any moment: whatever was written since is cut off and written again, the same to the last byte.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared.cli import UsageError

from .sealed import PARTIAL, digest_of, flush
from .shards import HEADER, SPLITS, TOKEN, Entry, Tokens, header


class ShardWriter:
    """Writes shards of `shard_tokens` tokens into `folder`; only the last of each split may be smaller.

    finished    the shards that are whole, by split
    """

    def __init__(self, folder: Path, shard_tokens: int):
        self.folder, self.shard_tokens = folder, shard_tokens
        self.finished: dict[str, list[Entry]] = {split: [] for split in SPLITS}
        self._begun = dict.fromkeys(SPLITS, 0)  # tokens in the shard that is not full yet

    def append(self, split: str, tokens: Tokens) -> list[Entry]:
        """Add tokens (N,) to the end of "train" or "val" -> the shards that are full with them.

        Raises OSError if they cannot be written.
        """
        n_before = len(self.finished[split])
        while len(tokens):
            part = tokens[: self.shard_tokens - self._begun[split]]
            with self._partial(split).open("ab" if self._begun[split] else "wb") as file:
                if not self._begun[split]:
                    file.write(bytes(HEADER))
                file.write(part.astype(TOKEN, copy=False).tobytes())
            self._begun[split] += len(part)
            if self._begun[split] == self.shard_tokens:
                self._finish(split)
            tokens = tokens[len(part) :]
        return self.finished[split][n_before:]

    def finish(self) -> list[Entry]:
        """Give the last shards their names -> all that were written, those of "train" first."""
        for split in SPLITS:
            if self._begun[split]:
                self._finish(split)
        return [entry for split in SPLITS for entry in self.finished[split]]

    def state(self) -> dict[str, Any]:
        """What is on the disk now, flushed, as plain values."""
        for split in SPLITS:
            if self._begun[split]:
                flush(self._partial(split))
        finished = {split: [asdict(entry) for entry in entries] for split, entries in self.finished.items()}
        return {"finished": finished, "begun": dict(self._begun)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to `state`, removing what was written since. Raises UsageError if files that it names are gone."""
        for split in SPLITS:
            self.finished[split] = [Entry(**entry) for entry in state["finished"][split]]
            self._begun[split] = state["begun"][split]
            partial, size = self._partial(split), HEADER + self._begun[split] * TOKEN.itemsize
            full = partial.with_name(_name(split, len(self.finished[split])))
            if full.exists():  # was not full at that time
                full.replace(partial)
            keep = [self.folder / entry.name for entry in self.finished[split]] + [partial] * bool(self._begun[split])
            for path in {*self.folder.glob(f"{split}_*.bin"), *self.folder.glob(f"{split}_*.bin{PARTIAL}")} - {*keep}:
                path.unlink()
            if missing := [path for path in keep if not path.exists()]:
                raise UsageError(f"{missing[0]} is gone since it was written; bring it back, or begin again with --overwrite")
            if self._begun[split]:
                if partial.stat().st_size < size:
                    raise UsageError(f"{partial} has been cut off since it was written; begin again with --overwrite")
                os.truncate(partial, size)

    def _finish(self, split: str) -> None:
        partial, path = self._partial(split), self.folder / _name(split, len(self.finished[split]))
        with partial.open("r+b") as file:
            file.write(header(self._begun[split]))
        flush(partial)
        digest = digest_of(partial)
        partial.rename(path)
        flush(self.folder)
        self.finished[split].append(Entry(path.name, self._begun[split], digest))
        self._begun[split] = 0

    def _partial(self, split: str) -> Path:
        return self.folder / (_name(split, len(self.finished[split])) + PARTIAL)


def _name(split: str, index: int) -> str:
    return f"{split}_{index:06}.bin"
