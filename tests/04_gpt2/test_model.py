"""GPT-2 to the letter: the same logits, loss and gradients as Hugging Face's, and nothing seen of the future."""

import math
from dataclasses import replace
from importlib import import_module

import pytest
import torch
import torch.nn as nn
from transformers import GPT2Config, GPT2LMHeadModel

config = import_module("04_gpt2.config")
model = import_module("04_gpt2.model")

SMALL = config.GPTConfig(block_size=24, vocab_size=101, n_layer=3, n_head=4, n_embd=32)
GPT2_124M = config.GPTConfig()
# The other published sizes at their full width and number of heads, with two of their blocks and a part of their vocabulary.
WIDE = {n: replace(config.PRESETS[n].model, n_layer=2, vocab_size=997) for n in ("gpt2-medium", "gpt2-large", "gpt2-xl")}
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def hugging_face_twin(shape):
    """A freshly initialised GPT2LMHeadModel of this shape, and our model with the same weights."""
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.block_size,
            n_embd=shape.n_embd,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )
    with torch.no_grad():  # biases start at 0 and would not be compared
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.02)
    ours = model.GPT(shape)
    ours.load_state_dict({name: as_linear(name, tensor) for name, tensor in theirs.state_dict().items()})
    return theirs, ours


def as_linear(name, tensor):
    """Hugging Face keeps four matrices of a block as (in, out), nn.Linear as (out, in)."""
    return tensor.t() if name.endswith(TRANSPOSED) else tensor


@pytest.mark.parametrize(
    ("shape", "B", "T"),
    [(SMALL, 3, 24), (SMALL, 2, 1), (GPT2_124M, 1, 48), *((shape, 1, 20) for shape in WIDE.values())],
    ids=["small", "T=1", "124M", *WIDE],
)
def test_logits_loss_and_gradients_equal_hugging_face(shape, B, T):
    theirs, ours = hugging_face_twin(shape)
    assert sum(p.numel() for p in ours.parameters()) == shape.n_params
    idx = torch.randint(shape.vocab_size, (B, T + 1))
    expected = theirs(idx[:, :-1]).logits
    expected_loss = nn.functional.cross_entropy(expected.flatten(0, 1), idx[:, 1:].flatten())
    logits, loss = ours(idx[:, :-1]), ours(idx[:, :-1], idx[:, 1:])
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
    expected_loss.backward()
    loss.backward()
    gradients = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        wanted = as_linear(name, parameter.grad)
        torch.testing.assert_close(
            gradients[name].grad,
            wanted,
            atol=1e-5 * max(1.0, wanted.abs().max().item()),
            rtol=1e-4,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_the_loss_is_torchs_and_ignored_targets_do_not_count():
    ours = model.GPT(SMALL)
    idx, targets = torch.randint(SMALL.vocab_size, (2, 2, 10))
    targets[0, :5] = -100
    logits, loss = ours(idx), ours(idx, targets)
    kept = targets != -100
    torch.testing.assert_close(loss, nn.CrossEntropyLoss()(logits[kept], targets[kept]))


def test_no_token_sees_the_future():
    ours = model.GPT(SMALL).eval()
    idx = torch.randint(SMALL.vocab_size, (1, 24))
    before = ours(idx)
    for t in range(24):
        changed = idx.clone()
        changed[0, t] = (idx[0, t] + 1 + torch.randint(SMALL.vocab_size - 1, ())) % SMALL.vocab_size
        after = ours(changed)
        assert torch.equal(before[0, :t], after[0, :t]), f"token {t} was seen earlier"
        assert not torch.allclose(before[0, t], after[0, t])


def test_weights_start_as_gpt2s():
    shape = config.GPTConfig(block_size=512, vocab_size=2000, n_layer=6, n_head=4, n_embd=256)
    ours = model.GPT(shape)
    for name, parameter in ours.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif ".ln_" in name:
            assert (parameter == 1).all(), name
        else:
            wanted = 0.01 if "wpe" in name else 0.02 / math.sqrt(12) if name.endswith("c_proj.weight") else 0.02
            error = 5 * wanted / math.sqrt(2 * parameter.numel())  # five standard errors of a standard deviation
            assert abs(parameter.std().item() - wanted) < error, name
            assert abs(parameter.mean().item()) < 5 * wanted / math.sqrt(parameter.numel()), name


def test_the_first_loss_is_ln_of_the_vocabulary():
    shape = replace(SMALL, vocab_size=5000)
    idx = torch.randint(5000, (8, 25))
    loss = model.GPT(shape)(idx[:, :-1], idx[:, 1:])
    assert abs(loss.item() - math.log(5000)) < 0.1


def test_the_head_is_the_token_table():
    ours = model.GPT(SMALL)
    assert ours.lm_head.weight is ours.transformer.wte.weight
    assert ours.lm_head.bias is None


def test_dropout_acts_in_training_only():
    ours = model.GPT(replace(SMALL, dropout=0.5))
    idx = torch.randint(SMALL.vocab_size, (1, 8))
    assert not torch.equal(ours.train()(idx), ours(idx))
    assert torch.equal(ours.eval()(idx), ours(idx))


def test_dropout_acts_inside_attention_too():
    net = model.CausalSelfAttention(replace(SMALL, dropout=0.5))
    net.resid_dropout.p = 0.0  # what is left is the dropout of the attention weights
    x = torch.randn(1, 8, 32)
    assert not torch.allclose(net.train()(x), net.eval()(x))


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(ValueError, match="25 tokens in a row, but this model has 24 positions"):
        model.GPT(SMALL)(torch.zeros((1, 25), dtype=torch.long))
