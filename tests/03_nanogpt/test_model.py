"""NonaGPT: its shape, its details, its start, its sampling. That it is a GPT-2 is held in tests/golden_thread."""

import math
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F

model = import_module("03_nanogpt.model")


def small(**changes):
    """A model whose weights are strong enough for every character in sight to matter."""
    shape = {"block_size": 8, "vocab_size": 20, "n_layer": 2, "n_head": 2, "n_embd": 16} | changes
    net = model.NonaGPT(model.NonaGPTConfig(**shape))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return net.eval()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["block_size", "vocab_size", "n_layer", "n_head", "n_embd"])
@pytest.mark.parametrize("value", [0, -3, 2.0, "4"])
def test_sizes_are_whole_numbers_from_1(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; a whole number of at least 1 is expected"):
        model.NonaGPTConfig(**{name: value})


def test_shares_and_heads_that_do_not_fit_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"dropout is 1; a share of at least 0 and below 1 is expected"):
        model.NonaGPTConfig(dropout=1)
    with pytest.raises(ValueError, match=r"n_head 5 does not divide n_embd 96; .* such as 100"):
        model.NonaGPTConfig(n_head=5)


def test_the_parts_have_the_names_and_shapes_that_the_course_uses():
    C, V, T = 16, 20, 8
    shapes = {name: tuple(tensor.shape) for name, tensor in small(n_layer=1).state_dict().items()}
    assert shapes == {
        "token_embedding_table.weight": (V, C),
        "position_embedding_table.weight": (T, C),
        "blocks.0.ln1.weight": (C,),
        "blocks.0.ln1.bias": (C,),
        "blocks.0.sa.qkv.weight": (3 * C, C),
        "blocks.0.sa.qkv.bias": (3 * C,),
        "blocks.0.sa.proj.weight": (C, C),
        "blocks.0.sa.proj.bias": (C,),
        "blocks.0.ln2.weight": (C,),
        "blocks.0.ln2.bias": (C,),
        "blocks.0.ffwd.widen.weight": (4 * C, C),
        "blocks.0.ffwd.widen.bias": (4 * C,),
        "blocks.0.ffwd.narrow.weight": (C, 4 * C),
        "blocks.0.ffwd.narrow.bias": (C,),
        "ln_f.weight": (C,),
        "ln_f.bias": (C,),
        "lm_head.weight": (V, C),  # no bias
    }


def test_the_number_of_parameters_counts_the_tied_head_once():
    V, T, L, C = 128, 64, 4, 96
    assert model.NonaGPT(model.NonaGPTConfig()).n_params == (V + T) * C + L * (12 * C * C + 13 * C) + 2 * C == 465_984


def test_head_and_token_table_are_one_matrix():
    net = small()
    assert net.lm_head.weight is net.token_embedding_table.weight


def test_layer_norms_and_gelu_are_gpt_2s():
    norms = [module for module in small().modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 5 and all(norm.eps == 1e-5 for norm in norms)
    assert small().blocks[0].ffwd.gelu.approximate == "tanh"


def test_weights_start_as_gpt_2s_and_the_first_loss_is_that_of_a_guess():
    torch.manual_seed(0)
    net = model.NonaGPT(model.NonaGPTConfig(n_layer=8))
    std = {name: parameter.std().item() for name, parameter in net.named_parameters() if parameter.dim() == 2}
    for name, measured in std.items():
        expected = 0.01 if name.startswith("position") else 0.02
        if name.endswith(("sa.proj.weight", "ffwd.narrow.weight")):
            expected = 0.02 / math.sqrt(16)
        assert measured == pytest.approx(expected, rel=0.03), name
    assert all((p == 0).all() for name, p in net.named_parameters() if name.endswith("bias"))
    ids = torch.randint(128, (16, 65))
    assert net(ids[:, :-1], ids[:, 1:])[1].item() == pytest.approx(math.log(128), rel=0.02)


def test_the_loss_is_the_mean_cross_entropy_of_the_logits():
    net, ids = small(), torch.randint(20, (3, 9))
    logits, loss = net(ids[:, :-1], ids[:, 1:])
    assert logits.shape == (3, 8, 20) and net(ids[:, :-1])[1] is None
    torch.testing.assert_close(loss, F.cross_entropy(logits.reshape(24, 20), ids[:, 1:].reshape(24)))


def test_more_characters_than_positions_are_refused():
    with pytest.raises(ValueError, match="9 characters in a row, but this model has 8 positions"):
        small()(torch.zeros(1, 9, dtype=torch.long))


def test_dropout_acts_in_training_only():
    torch.manual_seed(1)
    net, ids = small(dropout=0.3), torch.randint(20, (2, 8))
    assert torch.equal(net(ids)[0], net(ids)[0])
    net.train()
    assert not torch.equal(net(ids)[0], net(ids)[0])


@pytest.mark.parametrize("part", ["dropout", "blocks.0.sa.dropout", "blocks.1.ffwd.dropout", "blocks.0.sa.weights"])
def test_dropout_is_at_all_four_places_of_gpt_2(part):
    """With dropout left at one place alone, training is still random."""
    net, ids = small(dropout=0.3).train(), torch.randint(20, (2, 8))
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Dropout) and name != part:
            module.p = 0.0
        if isinstance(module, model.SelfAttention) and f"{name}.weights" != part:
            module.weights_dropout = 0.0
    assert not torch.equal(net(ids)[0], net(ids)[0])


def test_greedy_writing_takes_the_likeliest_given_the_last_block_size_characters():
    net, ids, read = small(), torch.randint(20, (2, 3)), []
    net.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    written = net.generate(ids, 12, temperature=0)
    assert written.shape == (2, 15) and torch.equal(written[:, :3], ids)
    for n, seen in zip(range(3, 15), read[:12], strict=True):
        assert torch.equal(seen, written[:, max(0, n - 8) : n])
        assert torch.equal(net(seen)[0][:, -1].argmax(-1), written[:, n])


def test_the_likeliest_alone_temperature_0_and_a_tiny_temperature_are_the_same():
    net, ids = small(), torch.randint(20, (2, 3))
    greedy = net.generate(ids, 12, temperature=0)
    assert torch.equal(net.generate(ids, 12, top_k=1), greedy)
    assert torch.equal(net.generate(ids, 12, temperature=1e-300), greedy)
    assert torch.equal(net.generate(ids, 12, temperature=1e-30), greedy)


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (2.0, None), (1.0, 4), (0.7, 20), (1.0, 99)])
def test_characters_come_as_often_as_the_softmax_says(temperature, top_k):
    net, n = small(), 40_000
    ids = torch.randint(20, (1, 5))
    logits = net(ids)[0][0, -1] / temperature
    if top_k is not None:
        logits[logits.argsort(descending=True)[top_k:]] = float("-inf")
    drawn = net.generate(ids.expand(n, 5), 1, temperature, top_k, seeded(0))[:, -1]
    shares = drawn.bincount(minlength=20) / n
    assert (shares - logits.softmax(-1)).abs().max() < 0.015  # six standard deviations of a share of n draws
    assert top_k is None or (shares > 0).sum() <= top_k


def test_a_very_high_temperature_draws_all_alike_and_overflows_nowhere():
    shares = (
        small().generate(torch.zeros(20_000, 1, dtype=torch.long), 1, 1e30, generator=seeded(0))[:, -1].bincount() / 20_000
    )
    assert len(shares) == 20 and (shares - 1 / 20).abs().max() < 0.01


def test_the_same_generator_writes_the_same_and_the_mode_stays():
    net, ids = small(dropout=0.5).train(), torch.randint(20, (2, 3))
    first = net.generate(ids, 10, generator=seeded(5))
    assert torch.equal(first, net.generate(ids, 10, generator=seeded(5)))
    assert not torch.equal(first, net.generate(ids, 10, generator=seeded(6)))
    assert net.training
    with pytest.raises(IndexError):
        net.generate(torch.full((1, 1), 20), 1)
    assert net.training


@pytest.mark.parametrize(
    ("ids", "arguments", "message"),
    [
        ([[1]], {"max_new_tokens": -1}, "max_new_tokens is -1; at least 0 is expected"),
        ([[1]], {"max_new_tokens": 1, "temperature": -0.5}, "temperature is -0.5; a number of at least 0 is expected"),
        ([[1]], {"max_new_tokens": 1, "temperature": math.nan}, "temperature is nan"),
        ([[1]], {"max_new_tokens": 1, "temperature": math.inf}, "temperature is inf"),
        ([[1]], {"max_new_tokens": 1, "top_k": 0}, "top_k is 0; at least 1 is expected"),
        ([1], {"max_new_tokens": 1}, r"ids of shape \(1,\); \(B, T\)"),
        ([[]], {"max_new_tokens": 1}, r"ids of shape \(1, 0\); \(B, T\) with at least one character"),
    ],
)
def test_numbers_that_cannot_work_are_refused(ids, arguments, message):
    with pytest.raises(ValueError, match=message):
        small().generate(torch.tensor(ids, dtype=torch.long), **arguments)


def test_writing_keeps_no_graph():
    net, needs = small(), []
    net.ln_f.register_forward_hook(lambda module, args, output: needs.append(output.requires_grad))
    net.generate(torch.zeros(1, 1, dtype=torch.long), 2)
    assert needs == [False, False]


def test_nothing_to_write_gives_the_prompt_back():
    ids = torch.randint(20, (2, 3))
    assert torch.equal(small().generate(ids, 0), ids)
