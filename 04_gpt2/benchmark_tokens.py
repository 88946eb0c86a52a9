"""Learning and using a vocabulary, beside Hugging Face's tokenizers (Rust), tiktoken (Rust) and the naive loop.

Tests hold that they learn the same merges and give the same ids.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import regex

from shared.corpora import shakespeare, tinyshakespeare

from .bpe import GPT2_PATTERN, BytePairTokenizer
from .measure import alone, in_turn, installed_texts
from .tokenizer import gpt2_tokenizer

LARGE_VOCABULARY, LARGE_TEXT = 32_768, 100_000_000  # tokens, bytes
NAIVE_VOCABULARY = 1024


def tokens(repeats: int) -> None:
    """Print four tables: learning from the plays, the naive loop, learning from 100 MB of code and prose, encoding."""
    text = shakespeare()
    print(f"learning a vocabulary from {len(text):,} characters: median CPU seconds of {repeats} on one thread")
    print(f"{'tokens':>8}{'ours':>8}{'tokenizers':>12}{'ratio':>8}")
    for size in (1024, 4096):
        a, b = in_turn([lambda n=size: ours([text], n), lambda n=size: hugging_face([text], n)], repeats)
        print(f"{size:>8,}{a:>8.2f}{b:>12.2f}{a / b:>8.2f}", flush=True)

    text = tinyshakespeare()
    started = time.process_time()
    naive_merges(text, NAIVE_VOCABULARY - 256)
    naive = time.process_time() - started
    [seconds] = in_turn([lambda: ours([text], NAIVE_VOCABULARY)], repeats)
    print(
        f"\n{NAIVE_VOCABULARY:,} tokens from {len(text):,} characters: the naive loop {naive:.0f} s (measured once), ", end=""
    )
    print(f"ours {seconds:.2f} s, {naive / seconds:.0f} times faster", flush=True)

    print(
        f"\n{LARGE_VOCABULARY:,} tokens from {LARGE_TEXT / 1e6:.0f} MB of installed .py, .md and .txt files, each in a process"
    )
    print(f"{'':>12}{'CPU s':>8}{'MB':>8}{'merges':>8}{'distinct chunks':>17}", flush=True)
    costs = [alone(learner, LARGE_TEXT, LARGE_VOCABULARY) for learner in (ours_large, hugging_face_large)]
    n_chunks = f"{alone(count_chunks, LARGE_TEXT).result:,}"
    for name, cost in zip(("ours", "tokenizers"), costs, strict=True):
        print(f"{name:>12}{cost.seconds:>8.1f}{cost.megabytes:>8.0f}{cost.result:>8,}{n_chunks:>17}")
    print(
        f"{'ratio':>12}{costs[0].seconds / costs[1].seconds:>8.2f}{costs[0].megabytes / costs[1].megabytes:>8.2f}", flush=True
    )

    encoding(repeats)


def encoding(repeats: int) -> None:
    """Print how long the plays take to become GPT-2's tokens."""
    from tiktoken import Encoding

    text, tokenizer = shakespeare(), gpt2_tokenizer()
    peer = Encoding("peer", pat_str=tokenizer.pattern, mergeable_ranks=tokenizer.ids, special_tokens=tokenizer.specials)

    def by_hand() -> object:
        tokenizer._chunk_cache.clear()
        return tokenizer.encode(text)

    through = tokenizer.tiktoken_encoding
    a, b, c = in_turn([by_hand, lambda: through.encode_ordinary(text), lambda: peer.encode_ordinary(text)], repeats)
    print(
        f"\n{len(text):,} characters as GPT-2's tokens: by hand {a:.2f} s, ours through tiktoken {b:.2f} s, tiktoken {c:.2f} s"
    )


def ours(documents: Iterable[str], vocab_size: int) -> BytePairTokenizer:
    """Merges learned by bpe.py."""
    return BytePairTokenizer.train(documents, vocab_size, specials=())


def hugging_face(documents: Iterable[str], vocab_size: int) -> Any:
    """Merges learned by tokenizers, on one thread."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # before it starts its threads
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def naive_merges(text: str, n_merges: int) -> list[tuple[int, int]]:
    """The same merges by the textbook's loop: count the pairs of the whole text, merge the most frequent one, begin again."""
    chunks = [list(chunk.encode()) for chunk in regex.findall(GPT2_PATTERN, text)]
    merges = []
    for new in range(256, 256 + n_merges):
        counts = Counter(pair for chunk in chunks for pair in pairwise(chunk))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        chunks = [merged(chunk, best, new) for chunk in chunks]
    return merges


def merged(chunk: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """`chunk` with each occurrence of `pair`, from the left, replaced by `new`."""
    result, i = [], 0
    while i < len(chunk):
        is_pair = i + 1 < len(chunk) and (chunk[i], chunk[i + 1]) == pair
        result.append(new if is_pair else chunk[i])
        i += 2 if is_pair else 1
    return result


def ours_large(n_bytes: int, vocab_size: int) -> int:
    """Number of merges that bpe.py learns from the installed packages' texts."""
    return len(ours(installed_texts(n_bytes), vocab_size).merges)


def hugging_face_large(n_bytes: int, vocab_size: int) -> int:
    """Number of merges that tokenizers learns from them."""
    return hugging_face(installed_texts(n_bytes), vocab_size).get_vocab_size() - 256


def count_chunks(n_bytes: int) -> int:
    """Number of distinct chunks in them."""
    distinct: set[str] = set()
    for text in installed_texts(n_bytes):
        distinct.update(regex.findall(GPT2_PATTERN, text))
    return len(distinct)
