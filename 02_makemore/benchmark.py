"""The ladder: counting, one layer, perceptrons, a WaveNet: what each needs, how well it predicts unseen names, what it writes.

Run it: python -m 02_makemore.benchmark, or with --names FILE on the classic names.txt, beside the published figures.
"""

import math
import random
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from tqdm import tqdm

from shared.cli import UsageError, command, parse
from shared.lr_finder import find_learning_rate
from shared.ngrams import kneser_ney, witten_bell

from .data import Split, cut, examples, names, read_names, split
from .models import BigramNetwork, BigramTable, NameModel, Ngrams, Perceptron, Rule, V, WaveNet
from .training import linear_decay, mean_loss, training_step

BATCH_SIZE = 1024
SWEEP_STEPS = 500  # of the learning-rate finder, before each training
N_SAMPLES = 1000  # names that each model writes
SHOWN = 10


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
class Network:
    """A network of the ladder: how it is made from a generator, and by what part of the finder's rate it is trained."""

    kind: str
    name: str
    make: Callable[[torch.Generator], NameModel]
    rate: float = 1.0


# The finder's rate is the best of a short training. With BatchNorm and 8 letters a third of it ends lower (1.978 in place of
# 1.990 for the WaveNet). As shapes and dropout, this was chosen by looking at validation losses.
NETWORKS = [
    Network("linear", "1 letter, one layer", BigramNetwork),
    Network("perceptron", "3 letters, 10 × 200", lambda g: Perceptron(3, 10, 200, g)),
    Network("perceptron", "3 letters, 10 × 200, BatchNorm", lambda g: Perceptron(3, 10, 200, g, batch_norm=True)),
    Network("perceptron", "8 letters, 10 × 200", lambda g: Perceptron(8, 10, 200, g)),
    Network("perceptron", "8 letters, 10 × 200, BatchNorm", lambda g: Perceptron(8, 10, 200, g, batch_norm=True), 1 / 3),
    Network("perceptron", "3 letters, 32 × 400, dropout 0.1", lambda g: Perceptron(3, 32, 400, g, 0.1)),
    Network("perceptron", "5 letters, 32 × 400, dropout 0.2", lambda g: Perceptron(5, 32, 400, g, 0.2)),
    # two as large as the WaveNet, without its BatchNorm and with it
    Network("perceptron", "8 letters, 24 × 345, dropout 0.1", lambda g: Perceptron(8, 24, 345, g, 0.1)),
    Network(
        "perceptron",
        "8 letters, 24 × 345, dropout 0.1, BatchNorm",
        lambda g: Perceptron(8, 24, 345, g, 0.1, batch_norm=True),
        1 / 3,
    ),
    Network("WaveNet", "8 letters, 24 × 128, dropout 0.1", lambda g: WaveNet(8, 24, 128, g, 0.1), 1 / 3),
]


@dataclass(frozen=True)
class Row:
    """A model of the ladder: numbers that it learned, losses in nats a symbol, CPU seconds of its work, names that it wrote.

    The work is, for counting, counting and scoring; for a network, finding its rate and training.
    """

    kind: str
    letters: int
    name: str
    parameters: int
    train: float
    val: float
    seconds: float
    written: Sequence[str] = ()


# A. Karpathy's lectures "makemore" (2022) on names.txt: part 1, counted and scored on the whole file; part 3, the perceptron;
# part 5, the same with BatchNorm, with 8 letters, and the WaveNet. The networks took 200,000 steps of 32 examples.
CLASSIC = (32_033, 29_494)  # its lines and its distinct names
PUBLISHED_BIGRAM = 2.454
PUBLISHED = [
    Row("published", 3, "3 letters, 10 × 200", 11_897, math.nan, 2.103, math.nan),
    Row("published", 3, "3 letters, 10 × 200, BatchNorm", 12_097, 2.058, 2.105, math.nan),
    Row("published", 8, "8 letters, 10 × 200, BatchNorm", 22_097, 1.918, 2.027, math.nan),
    Row("published", 8, "8 letters, WaveNet, 24 × 128", 76_579, 1.769, 1.993, math.nan),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print, row by row."""
    config = parse(
        BenchmarkConfig(),
        argv,
        prog="python -m 02_makemore.benchmark",
        description="Measure how well counting and networks predict names that they have not seen, and what names they write.",
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
    print(f"{'':11}{'':44}{'parameters':>11}{'train':>8}{'val':>8}{'seconds':>9}{'new names':>11}")
    known = set(words)
    rows = []
    for row in ladder(parts, config):
        rows.append(row)
        show(row, known)
    if classic:
        rows += PUBLISHED
        for row in PUBLISHED:
            show(row, known)
    for letters in (3, 8):
        print(verdict(rows, letters))
    print(f"the first {SHOWN} of {N_SAMPLES:,} names that each wrote, in brackets those that are in the data:")
    for row in rows:
        if row.written:
            names_shown = " ".join(f"({name})" if name in known else name for name in row.written[:SHOWN])
            print(f"{row.kind:11}{row.name:44}{names_shown}")
    return 0


def show(row: Row, known: Collection[str]) -> None:
    """One line of the table; what nobody has measured stays empty."""
    train, seconds = ("" if math.isnan(x) else f"{x:.{digits}f}" for x, digits in ((row.train, 3), (row.seconds, 1)))
    new = f"{sum(name not in known for name in row.written) / len(row.written):.1%}" if row.written else ""
    line = f"{row.kind:11}{row.name:44}{row.parameters:>11,}{train:>8}{row.val:>8.3f}{seconds:>9}{new:>11}"
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
    """One row after the other: counting, then the networks."""
    train, val, _ = parts
    for rule, most in ((witten_bell, range(1, 6)), (kneser_ney, (3, 5))):
        for letters in most:
            row = counted(train, val, letters, rule)
            yield replace(row, written=written(Ngrams(*examples(train, letters), rule), config.seed))
    for network in NETWORKS:
        generator = torch.Generator().manual_seed(config.seed)
        model = network.make(generator)
        row = trained(network, model, generator, parts, config.steps)
        yield replace(row, written=written(model, config.seed))


def written(model: NameModel, seed: int) -> list[str]:
    """Names by the model, at temperature 1."""
    return model.sample(N_SAMPLES, generator=torch.Generator().manual_seed(seed))


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


def trained(network: Network, model: NameModel, generator: torch.Generator, parts: Split, n_steps: int) -> Row:
    """A network trained by AdamW from its part of the rate that the finder suggests, down on a straight line."""
    x, y = examples(parts[0], model.block_size)
    started = time.process_time()
    optimizer = torch.optim.AdamW(model.parameters())
    step = training_step(model, optimizer, x, y, BATCH_SIZE, generator)
    rate = network.rate * find_learning_rate(step, [model, optimizer, generator], SWEEP_STEPS).suggestion
    for lr in tqdm(linear_decay(rate, n_steps), desc=network.name, leave=False, disable=None):
        step(lr)
    seconds = time.process_time() - started
    losses = mean_loss(model, x, y), mean_loss(model, *examples(parts[1], model.block_size))
    n_parameters = sum(p.numel() for p in model.parameters())
    return Row(network.kind, model.block_size, network.name, n_parameters, *losses, seconds)


if __name__ == "__main__":
    sys.exit(main())
