"""A vocabulary in other libraries' files: Hugging Face's tokenizer.json, in both directions, and tiktoken's list of ranks.

Hugging Face's engine writes a token as GPT-2 does, one printable character a byte, and cuts text with Oniguruma's regular
expressions.
"""

import base64
import json
import re
from pathlib import Path
from typing import Any

from .bpe import BYTE_OF, END_OF_TEXT, GPT2_PATTERN, VISIBLE, BytePairTokenizer

# Parts of a tokenizer.json that byte pair encoding as in GPT-2 does not have. (Where it cuts or fills up long and short texts,
# as some files ask, is not a matter of the vocabulary; transformers leaves that to the caller too.)
CHANGING = (
    "normalizer",
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "ignore_merges",
)


def save(tokenizer: BytePairTokenizer, path: str | Path) -> None:
    """Write Hugging Face's tokenizer.json: `tokenizers.Tokenizer.from_file` gives the same ids for every text without special
    tokens; with one, Hugging Face takes it as the special token.

    Raises ValueError for what its engine reads in another way: {1,3}+ and, but for GPT-2's own \\s++$, the signs ^ and $; and
    for a special token whose text is that of an ordinary one.
    """
    outside_sets = re.sub(r"\\.|\[(\\.|[^\]])*\]", "", tokenizer.pattern.replace(r"\s++$", ""))
    if anchor := re.search(r"[\^$]", outside_sets):
        raise ValueError(
            f"the pattern {tokenizer.pattern!r} holds {anchor[0]}, which stands for the text's end in one engine and for a "
            f"line's end in another; write it without"
        )
    if possessive := re.search(r"\{\d+(,\d*)?\}\+", tokenizer.pattern):
        raise ValueError(
            f"the pattern {tokenizer.pattern!r} holds {possessive[0]}, which Hugging Face's engine takes for a repetition of "
            f"repetitions; write {possessive[0][:-1]}"
        )
    shown = [visible(token) for token in tokenizer.tokens]
    if twice := set(shown) & set(tokenizer.specials):
        raise ValueError(f"{min(twice)!r} is a special token and an ordinary one; Hugging Face tells tokens by their texts")
    specials = [
        {
            "id": i,
            "content": text,
            "special": True,
            "normalized": False,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
        }
        for text, i in tokenizer.specials.items()
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    pieces = {"type": "Split", "pattern": {"Regex": tokenizer.pattern}, "behavior": "Isolated", "invert": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": specials,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [pieces, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {visible(token): i for token, i in tokenizer.ids.items()} | tokenizer.specials,
            "merges": [[shown[left], shown[right]] for left, right in tokenizer.merges],
        },
    }
    Path(path).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def load(path: str | Path) -> BytePairTokenizer:
    """The tokenizer of a byte-level tokenizer.json whose ids are 256 bytes, then the merges in order, then special tokens, as
    GPT-2's and those of this project are. Raises ValueError, naming the file, for any other."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        model, id_of = content["model"], content["model"]["vocab"]
        merges = [line.split(" ") if isinstance(line, str) else line for line in model["merges"]]
        specials = {token["content"]: token["id"] for token in content["added_tokens"]}
        if model.get("type", "BPE") != "BPE" or not all(token.get("special") for token in content["added_tokens"]):
            raise ValueError("it is more than byte pair encoding and special tokens")
        if changing := [name for name in CHANGING if content.get(name) or model.get(name)]:
            raise ValueError(f"it asks for {changing[0]}, which changes texts or ids")
        if (content.get("post_processor") or {"type": "ByteLevel"})["type"] != "ByteLevel":
            raise ValueError("it adds tokens to every text")
        return _numbered(id_of, merges, specials, _pattern(content["pre_tokenizer"]))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is not a tokenizer like GPT-2's ({type(error).__name__}: {error})") from None


def from_gpt2_files(vocabulary: bytes, merges: bytes) -> BytePairTokenizer:
    """The tokenizer of OpenAI's two files, encoder.json and vocab.bpe, which Hugging Face calls vocab.json and merges.txt.

    Raises ValueError if they are of another form.
    """
    lines = merges.decode("utf-8").splitlines()[1:]  # the first one is a version
    id_of = json.loads(vocabulary)  # printable form of a token -> id
    if END_OF_TEXT not in id_of:
        raise ValueError(f"it has no {END_OF_TEXT}")
    return _numbered(id_of, [line.split(" ") for line in lines], {END_OF_TEXT: id_of[END_OF_TEXT]}, GPT2_PATTERN)


def save_tiktoken(tokenizer: BytePairTokenizer, path: str | Path) -> None:
    """Write the tokens as `tiktoken.load.load_tiktoken_bpe` reads them: a line for each, its bytes in base64 and its id.

    The pattern and the special tokens are not part of that format; `tiktoken.Encoding` takes them beside it.
    """
    lines = [f"{base64.b64encode(token).decode()} {i}\n" for token, i in tokenizer.ids.items()]
    Path(path).write_text("".join(lines), encoding="ascii")


def visible(token: bytes) -> str:
    """A token as GPT-2's files write it: b" the" -> "Ġthe"."""
    return "".join(VISIBLE[byte] for byte in token)


def _numbered(id_of: dict[str, int], merges: list[list[str]], specials: dict[str, int], pattern: str) -> BytePairTokenizer:
    text_of = {i: text for text, i in id_of.items()}
    tokenizer = BytePairTokenizer(
        [(id_of[left], id_of[right]) for left, right in merges],
        pattern,
        sorted(specials, key=lambda text: specials[text]),
        bytes(BYTE_OF[text_of[i]] for i in range(256)),
    )
    ours = {visible(token): i for token, i in tokenizer.ids.items()}
    if tokenizer.specials != specials or {text: i for text, i in id_of.items() if text not in specials} != ours:
        raise ValueError("its ids are not 256 bytes, the merges in order, the special tokens")
    return tokenizer


def _pattern(pre_tokenizer: dict[str, Any]) -> str:
    """The chunk pattern: GPT-2's own, which ByteLevel has built in, or one that is given before it."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    if steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        raise ValueError("it does not cut the text itself, byte by byte")
    if steps[-1].get("use_regex", True):
        if len(steps) > 1:
            raise ValueError("it cuts the text twice")
        return GPT2_PATTERN
    [split] = steps[:-1]
    if split["type"] != "Split" or split["behavior"] != "Isolated" or split["invert"]:
        raise ValueError("it does not cut the text by one regular expression")
    return split["pattern"]["Regex"]
