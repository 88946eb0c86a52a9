"""The same shards by datatrove, the engine that made FineWeb: its readers and filters before, its executors around them.

`pipeline` is for any of its executors: local, Slurm or Ray; the README shows the few lines. Each of their tasks leaves a
part, and `python -m 04_gpt2.data merge` joins these. With one task for each file of the source the shards are those of
`python -m 04_gpt2.data`; with N, fewer, the documents are the same and come in another order, since a task of datatrove
takes each N-th file. Needs pip install -e ".[datatrove]".
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import JsonlReader, ParquetReader

from .preparation import Task, claimed, finish, settings_of
from .shard_writer import ShardWriter
from .shards import SPLITS, TOKENIZER
from .sources import open_source
from .tokenising import tokenise
from .tokenizer import open_tokenizer

DOCUMENTS = 256  # tokenised at once


def pipeline(
    source: str,
    to: str,
    column: str = "text",
    tokenizer: str = "gpt2",
    val_share: float = 0.01,
    shard_tokens: int = 100_000_000,
) -> list[PipelineStep]:
    """Two steps: read the parquet files or the JSON lines of a folder, write token shards; put filters in between.

    Arguments are the flags of `python -m 04_gpt2.data`. Raises UsageError as that does.
    """
    description = open_source(source, column=column).description
    reader = ParquetReader if any(Path(source).rglob("*.parquet")) else JsonlReader
    return [
        reader(source, text_key=column, glob_pattern="**/*.parquet" if reader is ParquetReader else "**/*.json*"),
        TokenShards(to, description, tokenizer, val_share, shard_tokens),
    ]


class TokenShards(PipelineStep):
    """The last step of a pipeline: task `rank` of `world_size` writes the documents that reach it as a part of `to`.

    A task that is started again begins anew.
    """

    name, type = "Token shards", "WRITER"

    def __init__(self, to: str, source: dict[str, Any], tokenizer: str, val_share: float, shard_tokens: int):
        super().__init__()
        self.to, self.source, self.tokenizer, self.val_share, self.shard_tokens = (
            to,
            source,
            tokenizer,
            val_share,
            shard_tokens,
        )

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the documents and hand them on."""
        task = Task(rank + 1, world_size)
        folder, tokenizer = task.folder(Path(self.to)), open_tokenizer(self.tokenizer)
        settings = settings_of(self.source, tokenizer, self.val_share, self.shard_tokens, task)
        documents, without_text = dict.fromkeys(SPLITS, 0), 0
        with claimed(folder, overwrite=True):
            writer = ShardWriter(folder, self.shard_tokens)
            tokenizer.save(folder / TOKENIZER)
            data = iter(data)
            while group := list(islice(data, DOCUMENTS)):
                made = tokenise((document.text for document in group), tokenizer, self.val_share)
                for split in SPLITS:
                    writer.append(split, made.tokens[split])
                    documents[split] += made.documents[split]
                without_text += made.without_text
                self.stat_update("tokens", value=sum(map(len, made.tokens.values())))
                yield from group
            finish(folder, writer, settings, documents, without_text)
