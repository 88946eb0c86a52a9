"""A text becomes two arrays of tokens: the first nine tenths to learn from, the last tenth to be judged by."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared import corpora
from shared.cli import UsageError

from .bpe import END_OF_TEXT, BytePairTokenizer
from .tokenizer import choose_tokenizer

TEXTS = {"shakespeare": corpora.shakespeare, "tinyshakespeare": corpora.tinyshakespeare}

Tokens = NDArray[Any]  # (N,) uint16, or uint32 for vocabularies beyond 65,536


@dataclass(frozen=True)
class TokenData:
    """What a run learns from. Both token arrays begin with <|endoftext|>, so that the text's first token is predicted too."""

    tokenizer: BytePairTokenizer
    train: Tokens
    val: Tokens
    text: str

    @cached_property
    def sha256(self) -> str:
        """Digest of all tokens: a run that goes on must find the same ones."""
        digest = hashlib.sha256()
        for tokens in (self.train, self.val):
            digest.update(tokens.astype("<u4").tobytes())
        return digest.hexdigest()


def prepare(text: str, tokenizer_kind: str, vocab_size: int) -> TokenData:
    """Split the text, learn the tokenizer from its training part (or take GPT-2's), encode both parts.

    Raises UsageError for a text or a vocabulary that cannot be used.
    """
    train_text, val_text = split(text)
    tokenizer = choose_tokenizer(tokenizer_kind, train_text, vocab_size)
    return TokenData(tokenizer, tokenise(train_text, tokenizer), tokenise(val_text, tokenizer), text)


def load_text(source: str) -> str:
    """The text called `source`, or the text of the file at that path. Raises UsageError if there is neither."""
    if source not in TEXTS and not os.path.lexists(source):
        raise UsageError(f"--data {source} is not there; give {', '.join(TEXTS)} or the path of a UTF-8 text file")
    return TEXTS[source]() if source in TEXTS else corpora.read_text(source)


def split(text: str, val_share: float = 0.1) -> tuple[str, str]:
    """The first and the last part of `text`, cut by bytes (at the next whole character). Raises UsageError if one is empty."""
    raw = text.encode("utf-8")
    cut = int(len(raw) * (1 - val_share))
    while cut < len(raw) and raw[cut] & 0xC0 == 0x80:  # inside a character
        cut += 1
    if not 0 < cut < len(raw):
        raise UsageError(f"a text of {len(raw)} bytes is too short to be split into training and validation")
    return raw[:cut].decode("utf-8"), raw[cut:].decode("utf-8")


def tokenise(document: str, tokenizer: BytePairTokenizer) -> Tokens:
    """<|endoftext|> and the document's ids as one array (N,). The marker's text inside a document is ordinary text."""
    ids = [tokenizer.specials[END_OF_TEXT], *tokenizer.tiktoken_encoding.encode_ordinary(document)]
    return np.array(ids, dtype=np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
