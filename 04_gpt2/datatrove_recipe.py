"""The same shards by datatrove, the engine that made FineWeb: its filters before the tokens, its executors around them.

`pipeline` is for any of its executors: local, Slurm or Ray; the README shows the few lines. Each of their tasks leaves the
part that `python -m 04_gpt2.data --task` would, and `python -m 04_gpt2.data merge` joins these; one task alone leaves the
whole. Needs pip install -e ".[datatrove]".
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from shared.cli import UsageError

from .documents import pieces, texts_of
from .preparation import Task, claimed, finish, settings_of
from .shard_writer import ShardWriter
from .shards import MANIFEST, PROGRESS, SPLITS, TOKENIZER
from .sources import open_source
from .tokenising import tokenise
from .tokenizer import open_tokenizer

DOCUMENTS = 256  # tokenised at once


def pipeline(
    source: str,
    to: str,
    steps: Sequence[PipelineStep] = (),
    tokenizer: str = "gpt2",
    val_share: float = 0.01,
    shard_tokens: int = 100_000_000,
    **of_source: Any,
) -> list[PipelineStep]:
    """Read a source, send its documents through `steps` (datatrove's filters, say), write token shards.

    The other arguments are the flags of `python -m 04_gpt2.data`; `of_source` are those of the source: subset, split,
    revision, column, download. Raises UsageError as that command does.
    """
    description = open_source(source, **of_source).description
    if steps:
        description = description | {"steps": [f"{type(step).__name__}" for step in steps]}
    return [SourceDocuments(source, of_source), *steps, TokenShards(to, description, tokenizer, val_share, shard_tokens)]


class SourceDocuments(PipelineStep):
    """The first step: task `rank` of `world_size` reads the files of a source that are its own."""

    name, type = "Documents of a source", "READER"

    def __init__(self, source: str, of_source: dict[str, Any]):
        super().__init__()
        self.source, self.of_source = source, of_source

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Documents in order; those without text are empty."""
        source = open_source(self.source, **self.of_source)
        for piece in pieces(source, Task(rank + 1, world_size).files(len(source.files)), 0):
            file = source.files[piece.file]
            for row, text in enumerate(texts_of(piece, file, source.json_column), start=piece.first_row):
                yield Document(text or "", id=f"{file}/{row}")


class TokenShards(PipelineStep):
    """The last step: task `rank` of `world_size` writes the documents that reach it as a part of `to`.

    A task that was killed begins anew. Raises UsageError if the part is there already.
    """

    name, type = "Token shards", "WRITER"

    def __init__(self, to: str, source: dict[str, Any], tokenizer: str, val_share: float, shard_tokens: int):
        super().__init__()
        self.to, self.source, self.tokenizer = to, source, tokenizer
        self.val_share, self.shard_tokens = val_share, shard_tokens

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the documents and hand them on."""
        task = Task(rank + 1, world_size)
        folder, tokenizer = task.folder(Path(self.to)), open_tokenizer(self.tokenizer)
        settings = settings_of(self.source, tokenizer, self.val_share, self.shard_tokens, task)
        if (folder / MANIFEST).exists() or (folder / PROGRESS).exists():
            raise UsageError(f"{folder} holds data already; name another folder, or remove it")
        documents, without_text = dict.fromkeys(SPLITS, 0), 0
        with claimed(folder, overwrite=True):  # what a killed task has left
            writer = ShardWriter(folder, self.shard_tokens)
            data = iter(data)
            while group := list(islice(data, DOCUMENTS)):
                made = tokenise((document.text for document in group), tokenizer, self.val_share)
                for split in SPLITS:
                    writer.append(split, made.tokens[split])
                    documents[split] += made.documents[split]
                without_text += made.without_text
                self.stat_update("tokens", value=sum(map(len, made.tokens.values())))
                yield from group
            tokenizer.save(folder / TOKENIZER)
            finish(folder, writer, settings, documents, without_text)
