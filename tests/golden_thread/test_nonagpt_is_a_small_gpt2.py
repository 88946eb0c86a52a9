"""NonaGPT's weights, renamed, give stage 04's GPT and Hugging Face's GPT-2 the same logits, loss and gradients."""

from importlib import import_module

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

nanogpt = import_module("03_nanogpt.model")
gpt2 = import_module("04_gpt2.model")
gpt2_config = import_module("04_gpt2.config")


def pair(seed, **shape):
    """A NonaGPT with random weights, and stage 04's GPT with the same ones under its names."""
    torch.manual_seed(seed)
    small = nanogpt.NonaGPT(nanogpt.NonaGPTConfig(**shape))
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    large = gpt2.GPT(gpt2_config.GPTConfig(**shape))
    large.load_state_dict(nanogpt.gpt2_weights(small.state_dict()))
    return small, large


SHAPES = [
    {"block_size": 64, "vocab_size": 128, "n_layer": 4, "n_head": 4, "n_embd": 96},
    {"block_size": 9, "vocab_size": 33, "n_layer": 1, "n_head": 1, "n_embd": 8},
    {"block_size": 16, "vocab_size": 50, "n_layer": 3, "n_head": 3, "n_embd": 24},
]


@pytest.mark.parametrize("shape", SHAPES, ids=["preset", "tiny", "three heads"])
@pytest.mark.parametrize("seed", [0, 1])
def test_renaming_the_weights_is_enough(shape, seed):
    small, large = pair(seed, **shape)
    ids = torch.randint(shape["vocab_size"], (3, shape["block_size"] + 1))
    logits, loss = small(ids[:, :-1], ids[:, 1:])
    expected, expected_loss = large(ids[:, :-1]), large(ids[:, :-1], ids[:, 1:])
    assert (logits - expected).abs().max() < 1e-5
    torch.testing.assert_close(loss, expected_loss)
    loss.backward()
    expected_loss.backward()
    gradients = nanogpt.gpt2_weights({name: p.grad for name, p in small.named_parameters()})
    theirs = {name: p.grad for name, p in large.named_parameters()}
    assert gradients.keys() == theirs.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-6)


def test_both_start_alike():
    """Tensor by tensor, the first weights are drawn with the same spread."""
    torch.manual_seed(0)
    shape = SHAPES[0]
    small = nanogpt.gpt2_weights(dict(nanogpt.NonaGPT(nanogpt.NonaGPTConfig(**shape)).named_parameters()))
    large = dict(gpt2.GPT(gpt2_config.GPTConfig(**shape)).named_parameters())
    for name, tensor in small.items():
        if tensor.dim() == 2:
            assert tensor.std().item() == pytest.approx(large[name].std().item(), rel=0.05), name
        else:
            assert torch.equal(tensor, large[name]), name


def test_hugging_face_agrees():
    """Its linear layers hold the transposed matrices, which is all that is done to them here."""
    shape = SHAPES[2]
    small, _ = pair(3, **shape)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=24, n_layer=3, n_head=3)
    theirs = GPT2LMHeadModel(config).eval()
    weights = nanogpt.gpt2_weights(small.state_dict())
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    theirs.load_state_dict({name: t.T if name.endswith(matrices) else t for name, t in weights.items()})
    ids = torch.randint(50, (2, 16))
    torch.testing.assert_close(small.eval()(ids)[0], theirs(ids).logits, rtol=1e-4, atol=1e-5)
