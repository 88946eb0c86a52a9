"""The ladder: counting, one layer, perceptrons, each with what it needs and how well it predicts names it has not seen.

Run it: python -m 02_makemore.benchmark, or with --names FILE on the classic names.txt, beside the published figures.
"""

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from tqdm import tqdm

from shared.cli import command, parse
from shared.lr_finder import find_learning_rate
from shared.ngrams import witten_bell

from .data import Split, cut, examples, names, read_names, split
from .models import BigramNetwork, BigramTable, NameModel, Perceptron, V
from .training import linear_decay, mean_loss, training_step

BATCH_SIZE = 1024
SWEEP_STEPS = 500  # of the learning-rate finder, before each training

# A. Karpathy's lectures "makemore" (2022) on names.txt, in nats a symbol. Part 1: counted and scored on the whole file;
# part 3: the perceptron with 3 letters; part 5: with 8 letters, and normalised. Both took 200,000 steps of 32 examples.
PUBLISHED = {"whole file": 2.454, "3 letters": 2.103, "8 letters": 2.027}


@dataclass(frozen=True)
class BenchmarkConfig:
    """What `python -m 02_makemore.benchmark` does."""

    names: Annotated[str | None, "file with one name a line, split as in the published figures; else the embedded names"] = (
        None
    )
    steps: Annotated[int, f"training steps of each network, {BATCH_SIZE:,} examples each"] = 6000
    seed: Annotated[int, "of the networks' first weights and their mini-batches"] = 1337

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; at least 1 is expected")


@dataclass(frozen=True)
class Row:
    """A model of the ladder: numbers that it learned, losses in nats a symbol, CPU seconds that it learned for."""

    kind: str
    model: str
    parameters: int
    train: float
    val: float
    seconds: float
    published: float | None = None


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
    parts = split(words) if config.names is None else published_split(words)
    print(f"{len(words):,} names, {len(set(words)):,} distinct; losses in nats a symbol, CPU seconds on one thread")
    if config.names is not None:
        pairs = examples(words, 1)
        loss = BigramTable(*pairs).loss(*pairs).item()
        print(f"bigrams counted and scored on the whole file: {loss:.3f}, published: {PUBLISHED['whole file']}")
    print(leak(words))
    print(f"{'':11}{'':28}{'parameters':>11}{'train':>8}{'val':>8}{'seconds':>9}{'published val':>15}")
    for row in ladder(parts, config):
        print(
            f"{row.kind:11}{row.model:28}{row.parameters:>11,}{row.train:>8.3f}{row.val:>8.3f}{row.seconds:>9.1f}"
            f"{row.published or '':>15}",
            flush=True,
        )
    return 0


def published_split(words: Sequence[str]) -> Split:
    """The split of the published figures: all lines, duplicates too, in an order of their own; then 80%, 10% and 10%."""
    words = list(words)
    random.Random(42).shuffle(words)
    return cut(words)


def leak(words: Sequence[str]) -> str:
    """What names that stand on both sides of a split do to the loss of counting 4 letters, in one sentence."""
    train, val, _ = published_split(words)
    known = set(train)
    also = [name for name in val if name in known]
    if not also:
        return "no name of the validation part is also in train"
    seen, unseen = counted(train, also, 4), counted(train, [name for name in val if name not in known], 4)
    together, distinct = counted(train, val, 4), counted(*split(words)[:2], 4)
    return (
        f"split line by line, {len(also) / len(val):.1%} of the validation names are also in train: counting 4 letters then "
        f"has {together.val:.3f}, {seen.val:.3f} on these and {unseen.val:.3f} on the others; split by distinct name it has "
        f"{distinct.val:.3f}"
    )


def ladder(parts: Split, config: BenchmarkConfig) -> Iterator[Row]:
    """One row after the other, by kind: counting, linear, perceptron."""
    train, val, _ = parts
    for letters in range(1, 6):
        yield counted(train, val, letters)
    yield trained("linear", "1 letter, one layer", BigramNetwork, parts, config)
    for letters, n_embd, n_hidden, dropout in ((3, 10, 200, 0.0), (3, 32, 400, 0.0), (5, 32, 400, 0.2), (8, 32, 400, 0.2)):

        def make(generator: torch.Generator, shape: tuple[int, int, int] = (letters, n_embd, n_hidden), p: float = dropout):
            return Perceptron(*shape, generator, p)

        label = f"{letters} letters, {n_embd} × {n_hidden}" + (f", dropout {dropout}" if dropout else "")
        yield trained("perceptron", label, make, parts, config)


def counted(train: Sequence[str], val: Sequence[str], letters: int) -> Row:
    """Counts of `letters` and the next one, with Witten and Bell's smoothing."""
    grams, wanted = (
        (torch.cat([x, y[:, None]], dim=1)).numpy() for x, y in (examples(train, letters), examples(val, letters))
    )
    started = time.process_time()
    loss = -float(np.log(witten_bell(grams, wanted, V)).mean())
    seconds = time.process_time() - started
    n_counts = sum(len(np.unique(grams[:, -n:] @ V ** np.arange(n))) for n in range(1, letters + 2))
    train_loss = -float(np.log(witten_bell(grams, grams, V)).mean())
    return Row("counting", f"{letters} letter{'s' * (letters > 1)}", n_counts, train_loss, loss, seconds)


def trained(kind: str, label: str, make: Callable[[torch.Generator], NameModel], parts: Split, config: BenchmarkConfig) -> Row:
    """A network trained by AdamW from the rate that the finder suggests, down on a straight line."""
    generator = torch.Generator().manual_seed(config.seed)
    model = make(generator)
    x, y = examples(parts[0], model.block_size)
    started = time.process_time()
    optimizer = torch.optim.AdamW(model.parameters())
    step = training_step(model, optimizer, x, y, BATCH_SIZE, generator)
    rate = find_learning_rate(step, [*model.parameters(), optimizer, generator], SWEEP_STEPS).suggestion
    for lr in tqdm(linear_decay(rate, config.steps), desc=label, leave=False, disable=None):
        step(lr)
    seconds = time.process_time() - started
    n_parameters = sum(p.numel() for p in model.parameters())
    published = PUBLISHED.get(label.split(",")[0])
    return Row(
        kind,
        label,
        n_parameters,
        mean_loss(model, x, y),
        mean_loss(model, *examples(parts[1], model.block_size)),
        seconds,
        published,
    )


if __name__ == "__main__":
    sys.exit(main())
