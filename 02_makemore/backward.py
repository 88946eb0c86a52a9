"""A perceptron with BatchNorm, taken apart into single operations, and its backward pass by hand: `loss.backward()` in full.

Each operation says how the loss changes with its inputs once that is known for its output. Whoever walks through them from the
loss back to the embeddings, one tensor at a time, has differentiated the network.
"""

from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .data import SYMBOLS

# N examples, T letters of context, E channels of an embedding, H hidden neurons, V = 27 symbols

V = len(SYMBOLS)
EPS = 1e-5  # BatchNorm's

PARAMETERS = ("C", "W1", "b1", "gamma", "beta", "W2", "b2")

# Every tensor that the loss depends on, in an order in which the gradients can be computed: from the loss backwards.
TENSORS = (
    *("logprobs", "probs", "inv_sums", "sums", "exps", "shifted", "largest", "logits"),  # cross-entropy
    *("h", "W2", "b2", "scaled"),  # the second linear layer, tanh
    *("gamma", "beta", "normed", "inv_std", "var", "centred", "mean", "hpre"),  # BatchNorm
    *("flat", "W1", "b1", "emb", "C"),  # the first linear layer, embeddings
)

Tensors = SimpleNamespace  # with an attribute for each tensor of the forward pass, or for each gradient


def random_parameters(block_size: int, n_embd: int, n_hidden: int, generator: torch.Generator) -> dict[str, Tensor]:
    """The network's numbers in double precision, none of them 0 or 1, so that no mistake hides behind a special value."""
    shapes = [(V, n_embd), (n_hidden, block_size * n_embd), (n_hidden,), (n_hidden,), (n_hidden,), (V, n_hidden), (V,)]
    scales = [1, (block_size * n_embd) ** -0.5, 0.1, 0.1, 0.1, n_hidden**-0.5, 0.1]
    numbers = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    weights = {name: scale * x for name, scale, x in zip(PARAMETERS, scales, numbers, strict=True)}
    weights["gamma"] += 1
    return weights


def forward(weights: Mapping[str, Tensor], contexts: Tensor, targets: Tensor) -> Tensors:
    """Every tensor on the way from the parameters and contexts (N, T), targets (N,) to the loss, each an attribute."""
    t = SimpleNamespace(contexts=contexts, targets=targets, **weights)
    t.emb = t.C[t.contexts]  # (N, T, E)
    t.flat = t.emb.flatten(1)  # (N, T · E)
    t.hpre = t.flat @ t.W1.T + t.b1  # (N, H)

    t.mean = t.hpre.mean(dim=0, keepdim=True)  # (1, H)
    t.centred = t.hpre - t.mean  # (N, H)
    t.var = (t.centred**2).mean(dim=0, keepdim=True)  # (1, H)
    t.inv_std = (t.var + EPS) ** -0.5  # (1, H)
    t.normed = t.centred * t.inv_std  # (N, H)
    t.scaled = t.gamma * t.normed + t.beta  # (N, H)

    t.h = torch.tanh(t.scaled)  # (N, H)
    t.logits = t.h @ t.W2.T + t.b2  # (N, V)

    t.largest = t.logits.amax(dim=1, keepdim=True)  # (N, 1)
    t.shifted = t.logits - t.largest  # (N, V)
    t.exps = t.shifted.exp()  # (N, V)
    t.sums = t.exps.sum(dim=1, keepdim=True)  # (N, 1)
    t.inv_sums = t.sums**-1  # (N, 1)
    t.probs = t.exps * t.inv_sums  # (N, V)
    t.logprobs = t.probs.log()  # (N, V)
    t.loss = -t.logprobs[torch.arange(len(targets)), targets].mean()  # ()
    return t


def gradients(t: Tensors) -> Tensors:
    """The gradient of the loss with respect to each tensor of the forward pass, in its shape, one operation at a time."""
    d, N = SimpleNamespace(), len(t.targets)
    d.logprobs = torch.zeros_like(t.logprobs)
    d.logprobs[torch.arange(N), t.targets] = -1 / N
    d.probs = d.logprobs / t.probs
    d.inv_sums = (d.probs * t.exps).sum(dim=1, keepdim=True)
    d.sums = -d.inv_sums * t.sums**-2
    d.exps = d.probs * t.inv_sums + d.sums
    d.shifted = d.exps * t.exps
    d.largest = -d.shifted.sum(dim=1, keepdim=True)
    d.logits = d.shifted + d.largest * one_hot(t.logits.argmax(dim=1), V)

    d.h = d.logits @ t.W2
    d.W2 = d.logits.T @ t.h
    d.b2 = d.logits.sum(dim=0)
    d.scaled = d.h * (1 - t.h**2)

    d.gamma = (d.scaled * t.normed).sum(dim=0)
    d.beta = d.scaled.sum(dim=0)
    d.normed = d.scaled * t.gamma
    d.inv_std = (d.normed * t.centred).sum(dim=0, keepdim=True)
    d.var = d.inv_std * -0.5 * (t.var + EPS) ** -1.5
    d.centred = d.normed * t.inv_std + d.var * 2 / N * t.centred
    d.mean = -d.centred.sum(dim=0, keepdim=True)
    d.hpre = d.centred + d.mean / N

    d.flat = d.hpre @ t.W1
    d.W1 = d.hpre.T @ t.flat
    d.b1 = d.hpre.sum(dim=0)
    d.emb = d.flat.view_as(t.emb)
    d.C = torch.zeros_like(t.C).index_add_(0, t.contexts.flatten(), d.emb.flatten(0, 1))
    return d


def short_gradients(t: Tensors) -> Tensors:
    """The parameters' gradients again, with cross-entropy and BatchNorm in one line each."""
    d, N = SimpleNamespace(), len(t.targets)
    d.logits = (t.probs - one_hot(t.targets, V)) / N
    d.W2, d.b2 = d.logits.T @ t.h, d.logits.sum(dim=0)
    d.scaled = (d.logits @ t.W2) * (1 - t.h**2)
    d.gamma, d.beta = (d.scaled * t.normed).sum(dim=0), d.scaled.sum(dim=0)
    d.hpre = t.gamma * t.inv_std * (d.scaled - d.beta / N - t.normed * d.gamma / N)
    d.W1, d.b1 = d.hpre.T @ t.flat, d.hpre.sum(dim=0)
    d.emb = (d.hpre @ t.W1).view_as(t.emb)
    d.C = torch.zeros_like(t.C).index_add_(0, t.contexts.flatten(), d.emb.flatten(0, 1))
    return d


class Known:
    """The gradients that are known when that of `wanted` is to be computed: those of the tensors nearer to the loss."""

    def __init__(self, t: Tensors, wanted: str):
        self._wanted, self._names = wanted, TENSORS[: TENSORS.index(wanted)]
        for name in self._names:
            setattr(self, name, getattr(t, name).grad.clone())

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        known = ", ".join(self._names) or "none: only the loss lies behind this tensor"
        raise AttributeError(f"d.{name} is not known when d.{self._wanted} is computed; known are {known}")


def check(name: str, by_hand: Callable[[Tensors, Known], Tensor]) -> None:
    """Hold `by_hand(t, d)`, the gradient of one tensor, against autograd's, on five random networks, to 1e-12.

    t has all tensors of the forward pass, d the gradients known so far (`Known`). Something random is added to each of these,
    as if the loss depended on it in one way more: a step of the chain rule is then seen also where the real gradients cancel.
    Raises AssertionError with what was expected and what came.
    """
    for seed, (N, T, E, H) in enumerate([(32, 3, 4, 7), (2, 1, 1, 2), (5, 2, 3, 27), (27, 4, 2, 5), (9, 3, 3, 9)]):
        t = differentiated(N, T, E, H, torch.Generator().manual_seed(seed), nudged=TENSORS[: TENSORS.index(name)])
        expected = getattr(t, name).grad
        plain = SimpleNamespace(**{key: value.detach().clone() for key, value in vars(t).items()})
        with torch.no_grad():
            got = by_hand(plain, Known(t, name))
        assert isinstance(got, Tensor), f"d_{name}: expected a tensor, got a {type(got).__name__}"
        way_out = f"begin with torch.zeros_like(t.{name}), or add .double()"
        assert got.dtype == expected.dtype, f"d_{name}: expected numbers of {expected.dtype}, got {got.dtype}; {way_out}"
        shapes = tuple(expected.shape), tuple(got.shape)
        assert shapes[0] == shapes[1], f"d_{name}: expected the shape of {name}, {shapes[0]}, got {shapes[1]}"
        worst = (expected - got).abs().nan_to_num(torch.inf).argmax()
        place = tuple(int(i) for i in torch.unravel_index(worst, expected.shape))
        where = f"d_{name} with N = {N}, T = {T}, E = {E}, H = {H}"
        message = f"{where}: expected {expected[place]:.6g} at {list(place)}, got {got[place]:.6g}"
        assert torch.allclose(got, expected, rtol=1e-12, atol=1e-12), message


def differentiated(N: int, T: int, E: int, H: int, generator: torch.Generator, nudged: Collection[str] = ()) -> Tensors:
    """A forward pass through a random network on random letters; each tensor holds its gradient by autograd in `.grad`.

    What is differentiated is the loss, plus a random share of each number of the tensors that are `nudged`.
    """
    weights = {name: w.requires_grad_() for name, w in random_parameters(T, E, H, generator).items()}
    letters = torch.randint(V, (N, T + 1), generator=generator)
    t = forward(weights, letters[:, :T], letters[:, T])
    total = t.loss
    for name in TENSORS:
        tensor = getattr(t, name)
        tensor.retain_grad()
        if name in nudged:
            total = total + 0.01 * (torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) * tensor).sum()
    total.backward()
    return t
