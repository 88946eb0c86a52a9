"""Every claim of speed, measured beside a peer in the same run: CPU seconds on one thread, in turn, medians.

Run it: python -m 04_gpt2.benchmark tokenizer (the peers come with pip install -e ".[bench]")
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Literal

from shared.cli import UsageError, command, parse
from shared.corpora import shakespeare

from .bpe import BytePairTokenizer


@dataclass(frozen=True)
class BenchmarkConfig:
    """What `python -m 04_gpt2.benchmark` does."""

    what: Annotated[Literal["tokenizer"], "what to measure"] = "tokenizer"
    repeats: Annotated[int, "measurements of each competitor, taken in turn"] = 5

    def __post_init__(self):
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}; at least 1 is expected")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    config = parse(
        BenchmarkConfig(),
        argv,
        prog="python -m 04_gpt2.benchmark",
        description="Measure a claim of speed beside a peer, in CPU seconds on one thread.",
        examples=["python -m 04_gpt2.benchmark tokenizer", "python -m 04_gpt2.benchmark tokenizer --repeats 9"],
        positional="what",
    )
    tokenizer_training(config.repeats)
    return 0


def tokenizer_training(repeats: int) -> None:
    """Learning a vocabulary from the plays: ours beside Hugging Face tokenizers (Rust); tests hold that
    both learn the same merges."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # before the peer starts its threads
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        raise UsageError('the peer tokenizers is not installed; pip install -e ".[bench]" brings it') from None
    text = shakespeare()

    def ours(vocab_size: int) -> object:
        return BytePairTokenizer.train(text, vocab_size, specials=())

    def theirs(vocab_size: int) -> object:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator([text], trainer)
        return tokenizer

    print(f"learning a vocabulary from {len(text):,} characters: median CPU seconds of {repeats} on one thread")
    print(f"{'tokens':>8}{'ours':>8}{'tokenizers':>12}{'ratio':>8}")
    for vocab_size in (1024, 4096):
        seconds = in_turn([lambda n=vocab_size: ours(n), lambda n=vocab_size: theirs(n)], repeats)
        print(f"{vocab_size:>8,}{seconds[0]:>8.2f}{seconds[1]:>12.2f}{seconds[0] / seconds[1]:>8.2f}")


def in_turn(competitors: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median CPU seconds of each competitor; they run one after the other, `repeats` times."""
    seconds: list[list[float]] = [[] for _ in competitors]
    for _ in range(repeats):
        for competitor, measured in zip(competitors, seconds, strict=True):
            started = time.process_time()
            competitor()
            measured.append(time.process_time() - started)
    return [median(measured) for measured in seconds]


if __name__ == "__main__":
    sys.exit(main())
