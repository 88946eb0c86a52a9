"""Documents become tokens: <|endoftext|> and then each document's ids, for training or for validation; all cores at work.

Which documents are for validation is a matter of their text alone, so that a document never changes sides when others are
added. Processes tokenise pieces of the source ahead of the one that writes; few are in flight, so that memory stays small.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from .bpe import END_OF_TEXT, BytePairTokenizer
from .documents import Piece, Source, texts_of
from .shards import SPLITS, TOKEN, Tokens

AHEAD = 3  # pieces in flight for each worker


class Tokenised(NamedTuple):
    """What a worker makes of a piece, by split."""

    tokens: dict[str, Tokens]
    documents: dict[str, int]
    without_text: int


def split_of(document: str, val_share: float) -> str:
    """ "val" for that share of all documents, "train" for the others: by a hash of the text, whatever stands around it."""
    digest = hashlib.blake2b(document.encode(), digest_size=8).digest()
    return "val" if int.from_bytes(digest) < val_share * 2**64 else "train"


def tokenise(documents: Iterable[str | None], tokenizer: BytePairTokenizer, val_share: float) -> Tokenised:
    """Each document's ids after <|endoftext|>, which inside a document is ordinary text."""
    ids: dict[str, list[Any]] = {split: [] for split in SPLITS}
    end_of_text = [tokenizer.specials[END_OF_TEXT]]
    counts, without_text = dict.fromkeys(SPLITS, 0), 0
    for document in documents:
        if not document:
            without_text += 1
            continue
        split = split_of(document, val_share)
        ids[split] += [end_of_text, tokenizer.encode_document(document)]
        counts[split] += 1
    tokens = {
        split: np.concatenate([np.empty(0, TOKEN), *parts], dtype=TOKEN, casting="unsafe") for split, parts in ids.items()
    }
    return Tokenised(tokens, counts, without_text)


def tokenise_all(
    source: Source, of: Iterable[Piece], tokenizer: BytePairTokenizer, val_share: float, workers: int
) -> Iterator[tuple[Piece, Tokenised]]:
    """The pieces in order, each with its tokens; `workers` processes are at work on those that follow.

    Raises BrokenProcessPool if one of them is ended from outside.
    """
    waiting: deque[tuple[Piece, Future[Tokenised]]] = deque()
    context = multiprocessing.get_context("spawn")  # the library datasets has threads, which do not survive a fork
    with ProcessPoolExecutor(workers, context, _begin_worker, (tokenizer, val_share)) as pool:
        try:
            for piece in of:
                with _ctrl_c_waits():  # a worker that is begun here never hears of it
                    future = pool.submit(_work, piece, source.files[piece.file], source.json_column)
                waiting.append((piece, future))
                if len(waiting) > AHEAD * workers:
                    first, made = waiting.popleft()
                    yield first, made.result()
            while waiting:
                first, made = waiting.popleft()
                yield first, made.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Within this block Ctrl-C is held back, for this thread and for good for the processes that it begins."""
    if os.name == "nt":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_worker: dict[str, Any] = {}  # of a worker process: what all its pieces need


def _begin_worker(tokenizer: BytePairTokenizer, val_share: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that writes
    parent = multiprocessing.parent_process()
    if parent is not None:  # if it is killed, nobody else ends this one
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    _worker.update(tokenizer=tokenizer, val_share=val_share)


def _work(piece: Piece, file: str, json_column: str | None) -> Tokenised:
    return tokenise(texts_of(piece, file, json_column), **_worker)
