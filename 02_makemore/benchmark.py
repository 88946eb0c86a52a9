"""The ladder: counting, one layer, perceptrons, each with what it needs and how well it predicts names it has not seen.

Run it: python -m 02_makemore.benchmark, or with --names FILE on the classic names.txt, beside the published figures.
"""

import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from shared.cli import UsageError, command, parse
from shared.lr_finder import find_learning_rate
from shared.ngrams import kneser_ney, witten_bell

from .data import Split, cut, examples, names, read_names, split
from .models import BigramNetwork, BigramTable, NameModel, Perceptron, V
from .training import linear_decay, mean_loss, training_step

Rule = Callable[[NDArray[np.int64], NDArray[np.int64], int], NDArray[np.float64]]

BATCH_SIZE = 1024
SWEEP_STEPS = 500  # of the learning-rate finder, before each training

# letters of context, n_embd, n_hidden, dropout
PERCEPTRONS = [(3, 10, 200, 0.0), (3, 32, 400, 0.1), (5, 32, 400, 0.2), (8, 32, 400, 0.2)]


@dataclass(frozen=True)
class BenchmarkConfig:
    """What `python -m 02_makemore.benchmark` does."""

    names: Annotated[str | None, "file with one name a line, split as published; else the embedded names"] = None
    steps: Annotated[int, f"training steps of each network, {BATCH_SIZE:,} examples each, after those that find a rate"] = 6000
    seed: Annotated[int, "of the networks' first weights and their mini-batches"] = 1337

    def __post_init__(self):
        if not 1 <= self.steps <= 10**6:
            raise ValueError(f"steps is {self.steps}; 1 to 1,000,000 are expected")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; 0 to 2**63 - 1 is expected")


@dataclass(frozen=True)
class Row:
    """A model of the ladder: numbers that it learned, losses in nats a symbol, CPU seconds of its work.

    For counting that is counting and scoring; for a network, finding its rate and training.
    """

    kind: str
    letters: int
    name: str
    parameters: int
    train: float
    val: float
    seconds: float


# A. Karpathy's lectures "makemore" (2022) on names.txt: part 1, counted and scored on the whole file; part 3, the perceptron;
# part 5, the same with 8 letters and BatchNorm. Both perceptrons took 200,000 steps of 32 examples.
CLASSIC = (32_033, 29_494)  # its lines and its distinct names
PUBLISHED_BIGRAM = 2.454
PUBLISHED = [
    Row("published", 3, "3 letters, 10 × 200", 11_897, math.nan, 2.103, math.nan),
    Row("published", 8, "8 letters, 10 × 200", 22_097, math.nan, 2.027, math.nan),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print, row by row."""
    config = parse(
        BenchmarkConfig(),
        argv,
        prog="python -m 02_makemore.benchmark",
        description="Measure how well counting, one linear layer and perceptrons predict names that they have not seen.",
        examples=["python -m 02_makemore.benchmark", "python -m 02_makemore.benchmark --names names.txt"],
    )
    torch.set_num_threads(1)
    words = names(distinct=False) if config.names is None else read_names(config.names)
    if len(set(words)) < 10:
        raise UsageError(f"{config.names} holds {len(set(words))} distinct names; at least 10 are expected")
    parts = split(words) if config.names is None else published_split(words)
    classic = (len(words), len(set(words))) == CLASSIC
    print(f"{len(words):,} names, {len(set(words)):,} distinct; losses in nats a symbol, CPU seconds on one thread")
    print(leak(words))
    pairs = examples(words, 1)
    loss = BigramTable(*pairs).loss(*pairs).item()
    beside = f" (published: {PUBLISHED_BIGRAM})" if classic else ""
    print(f"bigrams counted and scored on all of them: {loss:.3f}{beside}")
    print(f"{'':11}{'':32}{'parameters':>11}{'train':>8}{'val':>8}{'seconds':>9}")
    rows = []
    for row in ladder(parts, config):
        rows.append(row)
        show(row)
    if classic:
        rows += PUBLISHED
        for row in PUBLISHED:
            show(row)
    print(verdict(rows, letters=3))
    return 0


def show(row: Row) -> None:
    """One line of the table; what nobody has measured stays empty."""
    train, seconds = ("" if math.isnan(x) else f"{x:.{digits}f}" for x, digits in ((row.train, 3), (row.seconds, 1)))
    line = f"{row.kind:11}{row.name:32}{row.parameters:>11,}{train:>8}{row.val:>8.3f}{seconds:>9}"
    print(line.rstrip(), flush=True)


def verdict(rows: Sequence[Row], letters: int) -> str:
    """Who predicts how well with as many letters of context, in one sentence."""
    line = sorted((row for row in rows if row.letters == letters), key=lambda row: row.val)
    return f"{letters} letters, from best to worst: " + "; ".join(f"{row.kind}, {row.name}: {row.val:.3f}" for row in line)


def published_split(words: Sequence[str]) -> Split:
    """The split of the published figures: all lines, duplicates too, in an order of their own; then 80%, 10% and 10%."""
    words = list(words)
    random.Random(42).shuffle(words)
    return cut(words)


def leak(words: Sequence[str]) -> str:
    """What names that stand on both sides of a split do to the loss of counting 4 letters, in one sentence."""
    train, val, _ = published_split(words)
    both = set(train) & set(val)
    again = [name for name in val if name in both]
    clean = [name for name in train if name not in both]
    if not again or not clean:
        return f"split line by line, {'all' if again else 'no'} names of the validation part are also in train"
    known, unknown = counted(train, again, 4), counted(clean, again, 4)
    before, after = counted(train, val, 4), counted(clean, val, 4)
    return (
        f"split line by line, {len(again) / len(val):.1%} of the validation names are also in train: counting 4 letters has "
        f"{known.val:.3f} on them, and {unknown.val:.3f} once they are taken out of train; on all of validation "
        f"{before.val:.3f} and {after.val:.3f}"
    )


def ladder(parts: Split, config: BenchmarkConfig) -> Iterator[Row]:
    """One row after the other, by kind: counting, linear, perceptron."""
    train, val, _ = parts
    for letters in range(1, 6):
        yield counted(train, val, letters)
    for letters in (3, 5):
        yield counted(train, val, letters, kneser_ney)
    generator = torch.Generator().manual_seed(config.seed)
    yield trained("linear", "1 letter, one layer", BigramNetwork(generator), generator, parts, config.steps)
    for letters, n_embd, n_hidden, dropout in PERCEPTRONS:
        generator = torch.Generator().manual_seed(config.seed)
        model = Perceptron(letters, n_embd, n_hidden, generator, dropout)
        name = f"{letters} letters, {n_embd} × {n_hidden}" + (f", dropout {dropout}" if dropout else "")
        yield trained("perceptron", name, model, generator, parts, config.steps)


def counted(train: Sequence[str], val: Sequence[str], letters: int, rule: Rule = witten_bell) -> Row:
    """Counts of `letters` and the symbol after them, smoothed by a rule of shared/ngrams.py."""
    learned, wanted = (
        torch.cat([x, y[:, None]], dim=1).numpy() for x, y in (examples(part, letters) for part in (train, val))
    )
    started = time.process_time()
    val_loss = -float(np.log(rule(learned, wanted, V)).mean())
    seconds = time.process_time() - started
    train_loss = -float(np.log(rule(learned, learned, V)).mean())
    n_counts = sum(len(np.unique(learned[:, -n:] @ V ** np.arange(n))) for n in range(1, letters + 2))
    name = f"{letters} letter{'s' * (letters > 1)}" + (", Kneser-Ney" if rule is kneser_ney else "")
    return Row("counting", letters, name, n_counts, train_loss, val_loss, seconds)


def trained(kind: str, name: str, model: NameModel, generator: torch.Generator, parts: Split, n_steps: int) -> Row:
    """A network trained by AdamW from the rate that the finder suggests, down on a straight line."""
    x, y = examples(parts[0], model.block_size)
    started = time.process_time()
    optimizer = torch.optim.AdamW(model.parameters())
    step = training_step(model, optimizer, x, y, BATCH_SIZE, generator)
    rate = find_learning_rate(step, [model, optimizer, generator], SWEEP_STEPS).suggestion
    for lr in tqdm(linear_decay(rate, n_steps), desc=name, leave=False, disable=None):
        step(lr)
    seconds = time.process_time() - started
    losses = mean_loss(model, x, y), mean_loss(model, *examples(parts[1], model.block_size))
    return Row(kind, model.block_size, name, sum(p.numel() for p in model.parameters()), *losses, seconds)


if __name__ == "__main__":
    sys.exit(main())
