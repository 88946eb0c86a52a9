"""What a run learns from and is judged by: the tokens of a text, cut at nine tenths, or the shards of a prepared folder."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from shared import corpora
from shared.cli import UsageError

from .bpe import END_OF_TEXT, BytePairTokenizer
from .config import GPTConfig
from .loader import Tokens
from .shards import MANIFEST, SPLITS, Manifest, Shards, shard_paths, tokenizer_of
from .tokenizer import choose_tokenizer

TEXTS = {"shakespeare": corpora.shakespeare, "tinyshakespeare": corpora.tinyshakespeare}


@dataclass(frozen=True)
class TokenData:
    """Tokens to learn from and to validate on. Both begin with <|endoftext|>, which predicts the text's first one."""

    tokenizer: BytePairTokenizer
    train: Tokens
    val: Tokens
    text: str | None  # both parts; None if only tokens are at hand

    @cached_property
    def sha256(self) -> str:
        """Digest of all tokens, or of what their shards' manifest says: a run that goes on must find the same ones."""
        digest = hashlib.sha256()
        for tokens in (self.train, self.val):
            digest.update(tokens.sha256.encode() if isinstance(tokens, Shards) else tokens[:].astype("<u4").tobytes())
        return digest.hexdigest()


def prepare(text: str, tokenizer_kind: str, vocab_size: int) -> TokenData:
    """Split the text, learn the tokenizer from its training part (or take GPT-2's), encode both parts.

    Raises UsageError for a text or a vocabulary that cannot be used.
    """
    train_text, val_text = split(text)
    tokenizer = choose_tokenizer(tokenizer_kind, train_text, vocab_size)
    return TokenData(tokenizer, tokenise(train_text, tokenizer), tokenise(val_text, tokenizer), text)


def open_folder(folder: Path, vocab_size: int, read_ahead: bool = False) -> TokenData:
    """The shards of a folder: prepared by `04_gpt2.data`, or published ones without a manifest, which are GPT-2's tokens.

    Raises UsageError if a shard is damaged, if a split has no tokens, if the manifest is another tokenizer's, or if the
    tokenizer has more than `vocab_size` ids.
    """
    paths, tokenizer, sha256s = shard_paths(folder), tokenizer_of(folder), dict.fromkeys(SPLITS, ())
    if (folder / MANIFEST).exists():
        manifest = Manifest.load(folder)
        sha256s = {split: [entry.sha256 for entry in manifest.of(split)] for split in SPLITS}
    if tokenizer.vocab_size > vocab_size:
        raise UsageError(f"--vocab-size {vocab_size} has no room for the {tokenizer.vocab_size:,} ids of {folder}")
    train, val = (Shards(paths[split], tokenizer.vocab_size, read_ahead, sha256s[split]) for split in SPLITS)
    for split, tokens in zip(SPLITS, (train, val), strict=True):
        if len(tokens) < 2:
            raise UsageError(
                f"{folder} has no {split} tokens; prepare it with another --val-share, or add shards with {split} in the name"
            )
    return TokenData(tokenizer, train, val, text=None)


def open_data(source: str, shape: GPTConfig, read_ahead: bool = False) -> str | TokenData:
    """What --data names: a text, which is yet to become tokens, or the shards of a folder.

    Raises UsageError as load_text and open_folder do, for a single shard, and if a text is shorter than the shape's context.
    """
    if source not in TEXTS and Path(source).is_dir():
        return open_folder(Path(source), shape.vocab_size, read_ahead)
    if source.endswith(".bin"):
        raise UsageError(f"--data {source} has the name of a token shard; give the folder that holds it")
    text = load_text(source)
    if shape.block_size > (n_bytes := len(text.encode())):
        raise UsageError(f"--block-size {shape.block_size} is too long for {source}, which has {n_bytes:,} bytes")
    return text


def load_text(source: str) -> str:
    """The text called `source`, or the text of the file at that path. Raises UsageError if there is neither."""
    if source not in TEXTS and not os.path.lexists(source):
        raise UsageError(
            f"--data {source} is not there; give {', '.join(TEXTS)}, the path of a UTF-8 text file, or a folder of token "
            f"shards (python -m 04_gpt2.data makes them)"
        )
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


def tokenise(document: str, tokenizer: BytePairTokenizer) -> np.ndarray:
    """<|endoftext|> and the document's ids as one array (N,), uint16 or for vocabularies beyond 65,536 uint32.

    The marker's text inside a document is ordinary text.
    """
    ids = np.append([tokenizer.specials[END_OF_TEXT]], tokenizer.encode_document(document))
    return ids.astype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
