"""The hand-written backward pass against autograd, tensor by tensor, and against the model that it takes apart."""

from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

backward = import_module("02_makemore.backward")
models = import_module("02_makemore.models")


def a_network():
    """A forward pass of a random shape from random numbers, with autograd's gradients, and the same without autograd."""
    N, T, E, H = (int(torch.randint(2, 40, ())) for _ in range(4))
    t = backward.differentiated(N, min(T, 6), E, H, torch.Generator().manual_seed(int(torch.randint(10**6, ()))))
    return t, SimpleNamespace(**{name: value.detach().clone() for name, value in vars(t).items()})


def a_perceptron(t):
    """The model with BatchNorm, in double precision, with the numbers of the forward pass; it has no b1."""
    H, width = t.W1.shape
    E = t.C.shape[1]
    model = models.Perceptron(width // E, E, H, batch_norm=True)
    norm = model.layers.layers[3]
    norm.running_mean, norm.running_var = norm.running_mean.double(), norm.running_var.double()
    for p, name in zip(model.parameters(), ("C", "W1", "gamma", "beta", "W2", "b2"), strict=True):
        p.data = getattr(t, name).detach().clone()
    return model


def test_the_forward_pass_is_the_perceptrons_with_batchnorm():
    for _ in range(10):
        t, _plain = a_network()
        model = a_perceptron(t)
        torch.testing.assert_close(t.logits, model(t.contexts), rtol=1e-12, atol=1e-12)
        loss = model.loss(t.contexts, t.targets)
        torch.testing.assert_close(t.loss, loss, rtol=1e-12, atol=1e-12)
        loss.backward()
        for p, name in zip(model.parameters(), ("C", "W1", "gamma", "beta", "W2", "b2"), strict=True):
            torch.testing.assert_close(getattr(t, name).grad, p.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", backward.TENSORS)
def test_each_gradient_by_hand_is_autograds(name):
    for _ in range(5):
        t, plain = a_network()
        expected, got = getattr(t, name).grad, getattr(backward.gradients(plain), name)
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", backward.PARAMETERS)
def test_the_short_forms_give_the_same_gradients(name):
    for _ in range(5):
        t, plain = a_network()
        torch.testing.assert_close(
            getattr(backward.short_gradients(plain), name), getattr(t, name).grad, rtol=1e-12, atol=1e-12
        )


def test_every_tensor_that_the_loss_depends_on_is_there():
    t, _plain = a_network()
    assert set(vars(t)) == {*backward.TENSORS, "contexts", "targets", "loss"}
    assert set(backward.PARAMETERS) < set(backward.TENSORS)


def test_a_bias_before_batchnorm_is_useless():
    for _ in range(20):
        t, _plain = a_network()
        arrives = t.hpre.grad.abs().sum(dim=0)  # what would add up, if it did not cancel; next to nothing at a flat tanh
        assert (t.b1.grad.abs() <= 1e-12 * arrives + 1e-14 * arrives.max()).all() and t.b2.grad.abs().max() > 1e-6


def test_no_number_of_a_random_network_is_special():
    weights = backward.random_parameters(3, 4, 50, torch.Generator().manual_seed(1))
    assert all(((w != 0) & (w != 1)).all() and w.dtype == torch.float64 for w in weights.values())
    assert weights["gamma"].mean().item() == pytest.approx(1, abs=0.1) and abs(weights["beta"].mean().item()) < 0.1


@pytest.mark.parametrize("by_hand", [backward.gradients, backward.short_gradients])
def test_training_by_hand_gives_the_weights_of_training_by_autograd(by_hand):
    t, plain = a_network()
    model = a_perceptron(t)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = {name: getattr(plain, name) for name in backward.PARAMETERS}
    for _ in range(100):
        optimizer.zero_grad()
        model.loss(t.contexts, t.targets).backward()
        optimizer.step()
        d = by_hand(backward.forward(weights, t.contexts, t.targets))
        weights = {name: w - 0.1 * getattr(d, name) for name, w in weights.items()}
    assert not torch.allclose(weights["W1"], t.W1, atol=1e-3)
    weights.pop("b1")
    for p, (name, w) in zip(model.parameters(), weights.items(), strict=True):
        torch.testing.assert_close(w, p.data, rtol=1e-9, atol=1e-9, msg=name)


ANSWERS = {  # each from t and d alone, as an exercise has them
    "logprobs": lambda t, d: -F.one_hot(t.targets, 27).double() / len(t.targets),
    "probs": lambda t, d: d.logprobs / t.probs,
    "inv_sums": lambda t, d: (d.probs * t.exps).sum(1, keepdim=True),
    "sums": lambda t, d: -d.inv_sums / t.sums**2,
    "exps": lambda t, d: d.probs * t.inv_sums + d.sums,
    "shifted": lambda t, d: d.exps * t.exps,
    "largest": lambda t, d: -d.shifted.sum(1, keepdim=True),
    "logits": lambda t, d: d.shifted + d.largest * (t.logits == t.largest),
    "h": lambda t, d: d.logits @ t.W2,
    "W2": lambda t, d: torch.einsum("nv,nh->vh", d.logits, t.h),
    "b2": lambda t, d: d.logits.sum(0),
    "scaled": lambda t, d: d.h - d.h * t.h * t.h,
    "gamma": lambda t, d: (d.scaled * t.normed).sum(0),
    "beta": lambda t, d: d.scaled.sum(0),
    "normed": lambda t, d: d.scaled * t.gamma,
    "inv_std": lambda t, d: (d.normed * t.centred).sum(0, keepdim=True),
    "var": lambda t, d: -d.inv_std * t.inv_std**3 / 2,
    "centred": lambda t, d: d.normed * t.inv_std + 2 * t.centred * d.var / len(t.targets),
    "mean": lambda t, d: -d.centred.sum(0, keepdim=True),
    "hpre": lambda t, d: d.centred + d.mean / len(t.targets),
    "flat": lambda t, d: d.hpre @ t.W1,
    "W1": lambda t, d: d.hpre.T @ t.flat,
    "b1": lambda t, d: d.hpre.sum(0),
    "emb": lambda t, d: d.flat.reshape(t.emb.shape),
    "C": lambda t, d: F.one_hot(t.contexts.flatten(), 27).double().T @ d.emb.flatten(0, 1),
}


@pytest.mark.parametrize("name", backward.TENSORS)
def test_the_check_of_an_exercise_takes_the_right_answer_and_no_other(name):
    answer = ANSWERS[name]
    backward.check(name, answer)
    with pytest.raises(AssertionError, match=f"d_{name}: expected a tensor, got a NoneType"):
        backward.check(name, lambda t, d: None)
    with pytest.raises(AssertionError, match=f"d_{name}: expected numbers of torch.float64, got torch.float32; begin with"):
        backward.check(name, lambda t, d: answer(t, d).float())
    with pytest.raises(AssertionError, match=f"d_{name}: expected the shape of {name}, .*, got "):
        backward.check(name, lambda t, d: answer(t, d)[None])
    for wrong in (
        lambda x: x + 1e-11 * (1 + x.abs()),
        lambda x: x * torch.nan,
        lambda x: x + 1e-9 * (torch.arange(x.numel()) == 1).view(x.shape),
        lambda x: -x,
        lambda x: 2 * x,
        lambda x: x * 0,
        lambda x: x.flip(0) if len(x) > 1 else x + x.mean(),
    ):
        with pytest.raises(AssertionError, match=rf"d_{name} with N = .*: expected .* at \[\d+.*\], got "):
            backward.check(name, lambda t, d, wrong=wrong: wrong(answer(t, d)))


@pytest.mark.parametrize("step", ["d.shifted", "d.shifted + d.largest", "d.shifted - d.largest * (t.logits == t.largest)"])
def test_the_second_way_of_the_logits_is_checked_although_its_gradient_is_0(step):
    with pytest.raises(AssertionError, match="d_logits with"):
        backward.check("logits", eval(f"lambda t, d: {step}"))


def test_an_exercise_sees_the_gradients_nearer_to_the_loss_and_spoils_nothing():
    def answer(t, d):
        known = {name: getattr(d, name) for name in ("logprobs", "probs")}
        for tensor in (*known.values(), t.exps, t.logits):
            tensor.zero_()
        return (known["probs"] * t.exps).sum(dim=1, keepdim=True)

    with pytest.raises(AssertionError, match="d_inv_sums with"):
        backward.check("inv_sums", answer)
    backward.check("inv_sums", lambda t, d: (d.probs * t.exps).sum(dim=1, keepdim=True))
    with pytest.raises(AttributeError, match=r"d\.sums is not known when d\.inv_sums is computed; known are logprobs, probs$"):
        backward.check("inv_sums", lambda t, d: d.sums)
    with pytest.raises(AttributeError, match=r"d\.probs is not known .*; known are none: only the loss lies behind"):
        backward.check("logprobs", lambda t, d: d.probs)
