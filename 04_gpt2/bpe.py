"""Byte pair encoding, trained and applied by hand: text in, integers out, and back without loss.

First file of the data's path (corpus → tokenizer → tokens). Method: Sennrich et al. 2016, on bytes as in GPT-2 (Radford
et al. 2019, section 2.2).
"""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import regex
import tiktoken
from numpy.typing import NDArray

END_OF_TEXT = "<|endoftext|>"

# Text is cut into chunks before anything is merged, so that no token crosses from a word into the next one, from letters
# into digits or into punctuation. This is GPT-2's rule in the form that tiktoken runs: contractions, letters, digits,
# other signs (each with one space in front), the end's white space, white space up to the next word.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
# GPT-4's rule (tiktoken's cl100k_base): contractions in capitals too, any one sign in front of letters, at most three digits,
# line ends kept with the signs or the spaces before them. tiktoken writes {1,3}+, which cuts alike.
GPT4_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
    r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)


class BytePairTokenizer:
    """A vocabulary of byte strings: 256 single bytes, one token for each learned merge, then the special tokens.

    merges      (left, right) ids in the order in which they were learned; the i-th makes token 256 + i
    pattern     regular expression that cuts text into chunks; merges never cross a chunk's end: GPT2_PATTERN, GPT4_PATTERN
                or your own, as long as its matches leave out no character
    specials    texts that stand for one token each, such as <|endoftext|>; their ids follow the last merge
    alphabet    the 256 bytes in the order of their ids (GPT-2 numbers the printable ones first)

    Raises ValueError if the pattern is not a regular expression or captures groups, or if a special token is empty or no text.
    """

    def __init__(
        self,
        merges: Iterable[tuple[int, int]],
        pattern: str = GPT2_PATTERN,
        specials: Iterable[str] = (END_OF_TEXT,),
        alphabet: bytes = bytes(range(256)),
    ):
        self.merges = list(merges)
        self.pattern = require_pattern(pattern)
        self.alphabet = alphabet
        self.tokens = [bytes([byte]) for byte in alphabet]  # id -> bytes
        for left, right in self.merges:
            self.tokens.append(self.tokens[left] + self.tokens[right])
        self.ids: dict[bytes, int] = {}  # bytes -> id; where two merges spell the same bytes, the first
        for i, token in enumerate(self.tokens):
            self.ids.setdefault(token, i)
        specials = list(specials)
        if wrong := [text for text in specials if not text or text != text.encode(errors="replace").decode()]:
            raise ValueError(f"the special token {wrong[0]!r} cannot be told in a text: characters are expected, at least one")
        self.specials = {text: len(self.tokens) + i for i, text in enumerate(dict.fromkeys(specials))}
        self._special_texts = {i: text for text, i in self.specials.items()}
        self._chunk_cache: dict[str, list[int]] = {}

    @property
    def vocab_size(self) -> int:
        """Number of ids: bytes, merges and special tokens."""
        return len(self.tokens) + len(self.specials)

    @classmethod
    def train(
        cls,
        documents: str | Iterable[str],
        vocab_size: int,
        pattern: str = GPT2_PATTERN,
        specials: Collection[str] = (END_OF_TEXT,),
    ) -> "BytePairTokenizer":
        """Learn merges from one text, or from many, until there are `vocab_size` ids (special tokens counted) or no pair is
        left to merge. Of many texts one is held at a time, and the distinct chunks: all of them may be larger than memory.

        Raises ValueError if vocab_size has no room for the 256 bytes and the special tokens, or as `cut` does.
        """
        specials = list(dict.fromkeys(specials))
        n_merges = vocab_size - 256 - len(specials)
        if n_merges < 0:
            raise ValueError(
                f"a vocabulary of {vocab_size} is too small: 256 bytes and {len(specials)} special tokens "
                f"need at least {256 + len(specials)}"
            )
        counts: Counter[str] = Counter()
        for document in [documents] if isinstance(documents, str) else documents:
            counts.update(cut(document, pattern))
        return cls(learn_merges(counts, n_merges), pattern, specials)

    def encode(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """Ids of `text`. A special token's text is ordinary text, unless it is in `allowed_special`.

        Raises ValueError if `allowed_special` names a token that the vocabulary does not have, or as `cut` does.
        """
        if unknown := set(allowed_special) - set(self.specials):
            raise ValueError(f"not special tokens of this vocabulary: {sorted(unknown)}; it has {list(self.specials)}")
        if not allowed_special:
            return self._encode_ordinary(text)
        longest_first = sorted(allowed_special, key=len, reverse=True)
        parts = regex.split("(" + "|".join(map(regex.escape, longest_first)) + ")", text)
        ids = []
        for i, part in enumerate(parts):  # ordinary and special parts take turns
            ids += [self.specials[part]] if i % 2 else self._encode_ordinary(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; half a character shows as U+FFFD. Raises ValueError for ids that the vocabulary does not have."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, i: int) -> bytes:
        """The bytes that id `i` stands for. Raises ValueError if the vocabulary has no such id."""
        if i in self._special_texts:
            return self._special_texts[i].encode()
        if 0 <= i < len(self.tokens):
            return self.tokens[i]
        raise ValueError(f"token id {i} is not in the vocabulary of {self.vocab_size}")

    def encode_document(self, text: str) -> NDArray[np.uint32]:
        """What `encode` gives without special tokens, by tiktoken's engine and as an array (N,): for long texts."""
        try:
            return self.tiktoken_encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError:  # its regular expressions run out of memory at a million spaces in a row, ours do not
            chunks = [self._one_chunk_encoding.encode_to_numpy(chunk) for chunk in cut(text, self.pattern)]
            return np.concatenate([np.empty(0, np.uint32), *chunks])

    @cached_property
    def tiktoken_encoding(self) -> tiktoken.Encoding:
        """The same vocabulary in tiktoken's engine."""
        return tiktoken.Encoding("byte-pair", pat_str=self.pattern, mergeable_ranks=self.ids, special_tokens=self.specials)

    @cached_property
    def _one_chunk_encoding(self) -> tiktoken.Encoding:
        return tiktoken.Encoding("one chunk", pat_str=r"[\s\S]+", mergeable_ranks=self.ids, special_tokens={})

    def save(self, path: str | Path) -> None:
        """Write one readable JSON file; merges are written as in GPT-2's vocab.bpe, one printable character a byte."""
        shown = ["".join(VISIBLE[byte] for byte in token) for token in self.tokens]
        content = {
            "pattern": self.pattern,
            "alphabet": "".join(VISIBLE[byte] for byte in self.alphabet),
            "special_tokens": list(self.specials),
            "merges": [f"{shown[left]} {shown[right]}" for left, right in self.merges],
        }
        Path(path).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "BytePairTokenizer":
        """Read what `save` wrote. Raises ValueError, naming the file, if it is something else."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            alphabet = bytes(BYTE_OF[character] for character in content["alphabet"])
            id_of = {VISIBLE[byte]: i for i, byte in enumerate(alphabet)}
            merges = []
            for line in content["merges"]:
                left, right = line.split(" ")
                merges.append((id_of[left], id_of[right]))
                id_of.setdefault(left + right, 255 + len(merges))
            specials = content["special_tokens"]
            if sorted(alphabet) != list(range(256)):
                raise ValueError("its alphabet is not the 256 bytes")
            if not isinstance(specials, list) or not all(isinstance(text, str) for text in specials):
                raise ValueError("its special tokens are not a list of texts")
            return cls(merges, content["pattern"], specials, alphabet)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is not a tokenizer saved by this project ({type(error).__name__}: {error})") from None

    def _encode_ordinary(self, text: str) -> list[int]:
        ids = []
        for chunk in cut(text, self.pattern):
            if chunk not in self._chunk_cache:
                self._chunk_cache[chunk] = self._encode_chunk(chunk.encode())
            ids += self._chunk_cache[chunk]
        return ids

    def _encode_chunk(self, chunk: bytes) -> list[int]:
        """Merge neighbours, the pair that was learned first before all others, until no pair is in the vocabulary."""
        parts = [bytes([byte]) for byte in chunk]
        while len(parts) > 1:
            candidates = [self.ids.get(left + right, len(self.ids)) for left, right in pairwise(parts)]
            first = min(candidates)
            if first == len(self.ids):
                break
            at = candidates.index(first)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [self.ids[part] for part in parts]


def cut(text: str, pattern: str) -> list[str]:
    """The chunks of `text`, which joined are the text again: "I'm 29!" -> ["I", "'m", " 29", "!"].

    Raises ValueError if the pattern leaves characters out, or if the text holds what is no character (half a surrogate pair).
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} of the text is {text[error.start]!r}, half of a surrogate pair and no character; "
            f"was the text read as UTF-8?"
        ) from None
    chunks = regex.findall(require_pattern(pattern), text)
    if sum(map(len, chunks)) < len(text):
        raise ValueError(f"the pattern {pattern!r} leaves characters of the text out; end it with |[\\s\\S] to keep them all")
    return chunks


def require_pattern(pattern: str) -> str:
    """`pattern` itself. Raises ValueError if it is not a regular expression, or if it captures groups."""
    try:
        n_groups = regex.compile(pattern).groups
    except regex.error as error:
        raise ValueError(f"the pattern {pattern!r} is not a regular expression: {error}") from None
    if n_groups:
        raise ValueError(f"the pattern {pattern!r} captures a group; write (?:...) in place of (...)")
    return pattern


def learn_merges(chunks: dict[str, int], n_merges: int) -> list[tuple[int, int]]:
    """The `n_merges` most frequent pairs, each counted after the merges before it; ties go to the smaller pair of ids.

    chunks: how often each distinct chunk occurs. A word is held as a string whose characters *are* token ids, so that
    replacing a pair is `str.replace` and pairs compare like their ids.
    """
    words = [chunk.encode().decode("latin-1") for chunk in chunks]
    frequencies = list(chunks.values())
    counts: dict[str, int] = defaultdict(int)  # pair -> occurrences
    words_with: dict[str, set[int]] = defaultdict(set)  # pair -> words that hold it, or once did
    for i, word in enumerate(words):
        for left, right in pairwise(word):
            counts[left + right] += frequencies[i]
            words_with[left + right].add(i)

    queue = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(queue)
    merges = []
    while len(merges) < n_merges and queue:
        count, pair = heapq.heappop(queue)
        if -count != counts[pair]:  # counted before other merges took some of its words
            if counts[pair] > 0:
                heapq.heappush(queue, (-counts[pair], pair))
            continue
        token = chr(256 + len(merges))
        merges.append((ord(pair[0]), ord(pair[1])))
        new_pairs = set()
        for i in words_with.pop(pair):
            old, frequency = words[i], frequencies[i]
            if pair not in old:
                continue
            new = words[i] = old.replace(pair, token)
            for left, right in pairwise(old):
                counts[left + right] -= frequency
            for left, right in pairwise(new):
                counts[left + right] += frequency
                if left == token or right == token:
                    new_pairs.add(left + right)
                    words_with[left + right].add(i)
        for pair in new_pairs:
            heapq.heappush(queue, (-counts[pair], pair))
    return merges


# GPT-2 shows each byte as one printable character: printable bytes as themselves, the others shifted past U+0100.
_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
VISIBLE = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_OTHERS)}
BYTE_OF = {character: byte for byte, character in VISIBLE.items()}
