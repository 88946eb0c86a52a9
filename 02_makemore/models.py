"""Models of names: counting, one linear layer, a perceptron with embeddings, a WaveNet.

All of them answer the same question: given the symbols before, how likely is each of the 27 symbols to come next?
"""

import math
from collections.abc import Callable, Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from shared.ngrams import witten_bell

from .data import SYMBOLS, decode
from .layers import (
    BatchNorm1d,
    Dropout,
    Embedding,
    Flatten,
    FlattenConsecutive,
    Layer,
    Linear,
    Sequential,
    Tanh,
    cross_entropy,
)

# Rows of symbols that were seen, rows whose last symbol is to be predicted, the number of symbols -> probabilities
Rule = Callable[[NDArray[np.int64], NDArray[np.int64], int], NDArray[np.float64]]

# N examples, T = block_size letters of context, V = 27 symbols

V = len(SYMBOLS)
LONGEST = 30  # letters of a sampled name; the longest in the data has 15
PATIENCE = 100  # tries for each name asked for, before `sample` gives up finding names that are not excluded


class NameModel(Layer):
    """What every model of names has. A model is itself a layer: contexts (N, T) -> logits (N, V).

    The networks raise ValueError for other than `block_size` symbols of context; counting looks at the last ones.
    """

    block_size: int
    layers: Layer

    def forward(self, contexts: Tensor) -> Tensor:
        if contexts.shape[-1] != self.block_size:
            raise ValueError(f"contexts are {tuple(contexts.shape)}; {self.block_size} symbols in each row are expected")
        return self.layers(contexts)

    def parameters(self) -> list[Tensor]:
        return self.layers.parameters()

    def train(self, mode: bool = True) -> "NameModel":
        self.layers.train(mode)
        self.training = mode
        return self

    def loss(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """Mean of -log p(target) in nats: (N, T), (N,) -> ()"""
        return cross_entropy(self(contexts), targets)

    @torch.no_grad()
    def sample(
        self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None, exclude: Collection[str] = ()
    ) -> list[str]:
        """`n` names, written letter by letter in evaluation mode; never the empty name, and none that is in `exclude`.

        The probabilities are softmax(logits / temperature): below 1 the likely letters become likelier, at 0 the likeliest
        is taken, and all names are the same. A name that has not ended after 30 letters ends there. The generator is one of
        the CPU. Raises ValueError if n or temperature is below 0 or not finite, if the model's logits are not numbers, or if
        hardly any name is found that is not excluded.
        """
        if n < 0 or not 0 <= temperature < math.inf:
            raise ValueError(f"n is {n} and temperature is {temperature}; finite numbers of at least 0 are expected")
        if isinstance(exclude, str):
            raise ValueError(f"exclude is the text {exclude!r}; a list or set of names is expected")
        if n == 0:
            return []
        excluded, names = frozenset(exclude), list[str]()
        training = self.training
        self.eval()
        try:
            for _ in range(PATIENCE):
                names += [name for name in self._write(n, temperature, generator) if name not in excluded]
                if len(names) >= n:
                    return names[:n]
        finally:
            self.train(training)
        raise ValueError(
            f"only {len(names)} of {PATIENCE * n} names written are not among the {len(excluded)} excluded; "
            f"exclude less, or take a temperature higher than {temperature}"
        )

    def _write(self, n: int, temperature: float, generator: torch.Generator | None) -> list[str]:
        """`n` names side by side, one letter of each at a time."""
        device = next((p.device for p in self.parameters()), None)
        written = torch.zeros(n, self.block_size, dtype=torch.int64)  # dots
        ended = torch.zeros(n, dtype=torch.bool)
        for i in range(LONGEST):
            logits = self(written[:, -self.block_size :].to(device)).cpu().double()  # (n, V)
            if logits.isnan().any():
                raise ValueError("the model's logits are not numbers; it has diverged: train it anew at a lower rate")
            if i == 0:
                logits = logits.masked_fill(torch.arange(V) == 0, -torch.inf)  # a name has a first letter
            if temperature == 0:
                letters = logits.argmax(dim=1)
            else:
                logits = (logits - logits.amax(dim=1, keepdim=True)) / temperature  # no division overflows upwards
                letters = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]  # (n,)
            ended |= letters == 0
            written = torch.cat([written, letters.masked_fill(ended, 0)[:, None]], dim=1)
            if ended.all():
                break
        return [decode(row).strip(".") for row in written.tolist()]


class BigramTable(NameModel):
    """Counting: how often did each symbol follow this one? It learns by looking at every example once.

    `smoothing` is added to each count, so that what was never seen is not impossible. A symbol that was never seen before
    another is followed by all alike.
    """

    block_size = 1

    def __init__(self, contexts: Tensor, targets: Tensor, smoothing: float = 0.0):
        if not 0 <= smoothing < math.inf:
            raise ValueError(f"smoothing is {smoothing}; a finite number of at least 0 is expected")
        self.layers = Sequential()  # none: the table answers
        self.counts = torch.zeros(V, V, dtype=torch.int64)
        self.counts.index_put_((contexts[:, -1], targets), torch.ones_like(targets), accumulate=True)
        weights = self.counts.double() + smoothing
        weights[weights.sum(dim=1) == 0] = 1
        self.probabilities = (weights / weights.sum(dim=1, keepdim=True)).float()  # (V, V), each row sums to 1

    def forward(self, contexts: Tensor) -> Tensor:
        return self.probabilities.log()[contexts[:, -1]]


class Ngrams(NameModel):
    """Counting with longer contexts, smoothed by a rule of shared/ngrams.py: contexts (M, T) and targets (M,) are counted.

    All is counted anew at each call, which takes a second for a hundred thousand. Raises ValueError if there is nothing to
    count, or if T is more than 11.
    """

    def __init__(self, contexts: Tensor, targets: Tensor, rule: Rule = witten_bell):
        self.block_size = contexts.shape[1]
        self.layers = Sequential()  # none: the counts answer
        self.rule = rule
        self.learned = torch.cat([contexts, targets[:, None]], dim=1).numpy()  # (M, T + 1)
        self.rule(self.learned, self.learned[:1], V)  # what cannot be counted is refused now

    def forward(self, contexts: Tensor) -> Tensor:
        symbols = torch.arange(V).repeat(len(contexts))[:, None]
        known = contexts[:, -self.block_size :].repeat_interleave(V, dim=0)
        asked = torch.cat([known, symbols], dim=1)  # (N · V, T + 1): each context with each symbol
        return torch.from_numpy(self.rule(self.learned, asked.numpy(), V)).log().view(-1, V)


class BigramNetwork(NameModel):
    """One linear layer on the one-hot form of the last symbol: the bigram table, found by gradient descent."""

    block_size = 1

    def __init__(self, generator: torch.Generator | None = None):
        self.linear = Linear(V, V, bias=False, generator=generator)
        self.layers = self.linear

    def forward(self, contexts: Tensor) -> Tensor:
        return self.linear(one_hot(contexts[:, -1], V).to(self.linear.weight.dtype))


class Perceptron(NameModel):
    """Embeddings of the last `block_size` symbols side by side, a hidden layer, logits (Bengio et al. 2003).

    `dropout` is the share of hidden neurons that are silenced at random in training. With `batch_norm` what goes into tanh is
    normalised over the batch.
    """

    def __init__(
        self,
        block_size: int,
        n_embd: int,
        n_hidden: int,
        generator: torch.Generator | None = None,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ):
        self.block_size = block_size
        self.embedding = Embedding(V, n_embd, generator)  # (V, n_embd)
        n_in = block_size * n_embd
        hidden = (
            [Linear(n_in, n_hidden, bias=False, generator=generator), BatchNorm1d(n_hidden)]  # which has a bias of its own
            if batch_norm
            else [Linear(n_in, n_hidden, gain=5 / 3, generator=generator)]  # 5/3 makes up for what tanh squeezes
        )
        self.layers = Sequential(
            self.embedding,  # (N, T) -> (N, T, n_embd)
            Flatten(),  # -> (N, T * n_embd)
            *hidden,  # -> (N, n_hidden)
            Tanh(),
            Dropout(dropout, generator),
            Linear(n_hidden, V, generator=generator),
        )


class WaveNet(NameModel):
    """Embeddings fused two by two, and the pairs again, until one vector speaks for all.

    `block_size` is a power of two, at least 2: for 8 symbols there are three layers of fusing. All pairs of a layer share its
    weights. These are the dilated convolutions of van den Oord et al. (2016), computed for the last position alone. `dropout`
    is as in the perceptron, after each layer. Raises ValueError for another block_size.
    """

    def __init__(
        self, block_size: int, n_embd: int, n_hidden: int, generator: torch.Generator | None = None, dropout: float = 0.0
    ):
        if block_size < 2 or block_size & (block_size - 1):
            raise ValueError(f"block_size is {block_size}; a power of two, at least 2, is expected")
        self.block_size = block_size
        self.embedding = Embedding(V, n_embd, generator)
        fusing: list[Layer] = []
        n_in = n_embd
        for _ in range(block_size.bit_length() - 1):
            fusing += [
                FlattenConsecutive(2),  # (N, T, n_in) -> (N, T / 2, 2 * n_in)
                Linear(2 * n_in, n_hidden, bias=False, generator=generator),  # -> (N, T / 2, n_hidden)
                BatchNorm1d(n_hidden),
                Tanh(),
                Dropout(dropout, generator),
            ]
            n_in = n_hidden
        self.layers = Sequential(
            self.embedding,  # (N, T) -> (N, T, n_embd)
            *fusing,  # -> (N, 1, n_hidden)
            Flatten(),  # -> (N, n_hidden)
            Linear(n_hidden, V, generator=generator),
        )
