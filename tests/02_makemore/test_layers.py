"""Our layers against torch.nn, forward and backward: to 1e-12 in float64, to 1e-6 in float32."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F

layers = import_module("02_makemore.layers")

FLOATS = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])


def same(ours, theirs, tolerance):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def hand_over(ours, theirs, dtype):
    """Give PyTorch's layer our numbers, both in `dtype`."""
    theirs.to(dtype)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.requires_grad and mine.shape == other.shape
        mine.data = mine.data.to(dtype)
        other.data = mine.data.clone()


def compare(ours, theirs, x, tolerance):
    """Equal outputs, and equal gradients of parameters and input for a random direction of the output."""
    mine, other = (x.clone().requires_grad_(x.is_floating_point()) for _ in range(2))
    out, expected = ours(mine), theirs(other)
    same(out, expected, tolerance)
    direction = torch.randn_like(out) / out.numel() ** 0.5
    out.backward(direction)
    expected.backward(direction)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        same(p.grad, q.grad, tolerance)
    if x.is_floating_point():
        same(mine.grad, other.grad, tolerance)


@FLOATS
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (5,)])
def test_linear_is_torchs(dtype, tolerance, bias, shape):
    ours = layers.Linear(5, 4, bias=bias)
    theirs = torch.nn.Linear(5, 4, bias=bias)
    if bias:
        ours.bias.data = torch.randn(4)
    hand_over(ours, theirs, dtype)
    compare(ours, theirs, torch.randn(shape, dtype=dtype), tolerance)


@FLOATS
@pytest.mark.parametrize("shape", [(6,), (6, 3)])
def test_embedding_is_torchs_and_adds_up_the_slopes_of_a_row_used_twice(dtype, tolerance, shape):
    ours, theirs = layers.Embedding(5, 4), torch.nn.Embedding(5, 4)
    hand_over(ours, theirs, dtype)
    compare(ours, theirs, torch.randint(5, shape), tolerance)


@FLOATS
@pytest.mark.parametrize(("ours", "theirs"), [(layers.Tanh(), torch.nn.Tanh()), (layers.Flatten(), torch.nn.Flatten())])
def test_tanh_and_flatten_are_torchs(dtype, tolerance, ours, theirs):
    compare(ours, theirs, torch.randn(4, 3, 2, dtype=dtype), tolerance)


@FLOATS
def test_a_network_of_them_is_torchs(dtype, tolerance):
    parts = layers.Embedding(9, 4), layers.Flatten(), layers.Linear(12, 8, gain=5 / 3), layers.Tanh(), layers.Linear(8, 9)
    ours = layers.Sequential(*parts)
    theirs = torch.nn.Sequential(
        torch.nn.Embedding(9, 4), torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.Tanh(), torch.nn.Linear(8, 9)
    )
    hand_over(ours, theirs, dtype)
    compare(ours, theirs, torch.randint(9, (20, 3)), tolerance)
    assert ours.layers == parts and len(ours.parameters()) == 5


@FLOATS
def test_cross_entropy_is_torchs(dtype, tolerance):
    logits = torch.randn(30, 9, dtype=dtype) * 3
    targets = torch.randint(9, (30,))
    a, b = (logits.clone().requires_grad_() for _ in range(2))
    ours, theirs = layers.cross_entropy(a, targets), F.cross_entropy(b, targets)
    same(ours, theirs, tolerance)
    ours.backward()
    theirs.backward()
    same(a.grad, b.grad, tolerance)


def test_cross_entropy_does_not_overflow():
    assert layers.cross_entropy(torch.tensor([[1000.0, -1000.0]]), torch.tensor([1])) == 2000


@pytest.mark.parametrize("gain", [1.0, 5 / 3, 0.1])
def test_a_linear_layer_passes_on_gain_times_the_spread_of_its_input(gain):
    for n_in in (10, 1000):
        linear = layers.Linear(n_in, 500, gain=gain)
        assert linear.weight.std().item() == pytest.approx(gain / n_in**0.5, rel=0.1)
        assert linear(torch.randn(500, n_in)).std().item() == pytest.approx(gain, rel=0.1)
        assert not linear.bias.any()


def test_the_same_generator_makes_the_same_layer_and_leaves_the_global_numbers_alone():
    before = torch.get_rng_state()
    for make in (lambda g: layers.Linear(4, 3, generator=g), lambda g: layers.Embedding(4, 3, g)):
        a, b, c = (make(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(a.weight, b.weight) and not torch.equal(a.weight, c.weight)
    assert torch.equal(torch.get_rng_state(), before)


def batchnorms(n, dtype):
    """Ours and PyTorch's with the same random numbers."""
    ours, theirs = layers.BatchNorm1d(n), torch.nn.BatchNorm1d(n)
    ours.weight.data, ours.bias.data = torch.rand(n) + 0.5, torch.randn(n) / 2  # outputs of size 1, to which 1e-6 is measured
    hand_over(ours, theirs, dtype)
    ours.running_mean, ours.running_var = ours.running_mean.to(dtype), ours.running_var.to(dtype)
    return ours, theirs


@FLOATS
@pytest.mark.parametrize("shape", [(30, 5), (20, 3, 5), (1, 12, 5)])
def test_batchnorm_is_torchs_in_training_and_evaluation(dtype, tolerance, shape):
    """PyTorch's has the channels before the time."""
    ours, theirs = batchnorms(5, dtype)

    def theirs_with_channels_last(x):
        return theirs(x.movedim(-1, 1)).movedim(1, -1)

    theirs_with_channels_last.parameters = theirs.parameters
    for step in range(10):
        x = torch.randn(shape, dtype=dtype) + torch.randn(5, dtype=dtype) / 2
        if step in (4, 9):
            ours.eval(), theirs.eval()
        for p in (*ours.parameters(), *theirs.parameters()):
            p.grad = None
        compare(ours, theirs_with_channels_last, x, tolerance)
        same(ours.running_mean, theirs.running_mean, tolerance)
        same(ours.running_var, theirs.running_var, tolerance)
        ours.train(), theirs.train()


def test_batchnorm_couples_examples_in_training_alone():
    x, norm = torch.randn(10, 4), layers.BatchNorm1d(4)
    other = torch.cat([x[:1], torch.randn(9, 4)])
    assert not torch.allclose(norm(x)[0], norm(other)[0])
    before = norm.running_mean.clone(), norm.running_var.clone()
    norm.eval()
    assert torch.equal(norm(x)[0], norm(other)[0]) and torch.equal(norm(x[:1]), norm(x)[:1])
    assert torch.equal(norm.running_mean, before[0]) and torch.equal(norm.running_var, before[1])
    assert len(norm.parameters()) == 2 and not norm.running_mean.requires_grad


def test_batchnorm_in_float32_takes_double_precision_too():
    norm = layers.BatchNorm1d(3)
    norm(torch.randn(5, 3, dtype=torch.float64)).sum().backward()
    assert norm.running_mean.dtype == torch.float32 and norm.running_mean.any()


@FLOATS
@pytest.mark.parametrize("shape", [(7, 50), (2, 3, 50), (50,)])
def test_layernorm_is_torchs(dtype, tolerance, shape):
    ours, theirs = layers.LayerNorm(50), torch.nn.LayerNorm(50)
    ours.weight.data, ours.bias.data = torch.rand(50) + 0.5, torch.randn(50) / 2
    hand_over(ours, theirs, dtype)
    compare(ours, theirs, torch.randn(shape, dtype=dtype) * 2 + 1, tolerance)


@pytest.mark.parametrize("eps", [0.1, 1e-5])
def test_the_norms_arguments_mean_what_they_mean_in_torch(eps):
    x = torch.randn(20, 6)
    ours, theirs = layers.BatchNorm1d(6, eps, momentum=0.7), torch.nn.BatchNorm1d(6, eps, momentum=0.7)
    same(ours(x), theirs(x), 1e-6)
    same(ours.running_mean, theirs.running_mean, 1e-6)
    same(ours.running_var, theirs.running_var, 1e-6)
    same(layers.LayerNorm(6, eps)(x), torch.nn.LayerNorm(6, eps)(x), 1e-6)


@FLOATS
@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_flattening_neighbours_and_a_linear_layer_are_torchs_strided_convolution(dtype, tolerance, n):
    ours = layers.Sequential(layers.FlattenConsecutive(n), layers.Linear(3 * n, 5))
    conv = torch.nn.Conv1d(3, 5, kernel_size=n, stride=n).to(dtype)
    linear = ours.layers[1]
    linear.weight.data, linear.bias.data = linear.weight.data.to(dtype), torch.randn(5, dtype=dtype)
    conv.weight.data = linear.weight.data.view(5, n, 3).transpose(1, 2).contiguous()
    conv.bias.data = linear.bias.data.clone()
    mine, other = (x.requires_grad_() for x in [torch.randn(6, 8, 3, dtype=dtype)] for _ in range(2))
    out, expected = ours(mine), conv(other.transpose(1, 2)).transpose(1, 2)
    assert out.shape == (6, 8 // n, 5)
    same(out, expected, tolerance)
    direction = torch.randn_like(out) / out.numel() ** 0.5
    [slope], [slope_of_theirs] = (torch.autograd.grad(y, x, direction) for y, x in ((out, mine), (expected, other)))
    same(slope, slope_of_theirs, tolerance)


def test_flattening_all_positions_is_flatten_and_a_view():
    x = torch.randn(4, 6, 3)
    out = layers.FlattenConsecutive(6)(x)
    assert torch.equal(out[:, 0], layers.Flatten()(x)) and out.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("layer", [layers.BatchNorm1d(5), layers.LayerNorm(5)], ids=["BatchNorm1d", "LayerNorm"])
def test_other_channels_than_a_norm_was_made_for_are_refused(layer):
    with pytest.raises(ValueError, match=r"x is \(8, 5, 3\); 5 channels are expected in its last dimension"):
        layer(torch.randn(8, 5, 3))


@pytest.mark.parametrize("n", [0, -1])
def test_norms_of_no_channels_are_refused(n):
    with pytest.raises(ValueError, match=f"num_features is {n}; at least 1"):
        layers.BatchNorm1d(n)
    with pytest.raises(ValueError, match=f"normalized_shape is {n}; at least 1"):
        layers.LayerNorm(n)


def test_a_hook_may_remove_itself():
    layer, seen = layers.Tanh(), []
    handle = layer.register_forward_hook(lambda *_: (seen.append(1), handle.remove()))
    layer.register_forward_hook(lambda *_: seen.append(2))
    layer(torch.zeros(2)), layer(torch.zeros(2))
    assert seen == [1, 2, 2]


def test_one_number_a_channel_has_no_spread():
    norm = layers.BatchNorm1d(5)
    with pytest.raises(ValueError, match=r"x is \(1, 5\); in training at least 2 numbers a channel"):
        norm(torch.randn(1, 5))
    assert norm.eval()(torch.randn(1, 5)).shape == (1, 5)


@pytest.mark.parametrize("n", [0, -2])
def test_neighbours_that_cannot_be_flattened_are_refused(n):
    with pytest.raises(ValueError, match=f"n is {n}; at least 1"):
        layers.FlattenConsecutive(n)
    with pytest.raises(ValueError, match=r"x is \(6, 4\); \(N, T, C\) is expected"):
        layers.FlattenConsecutive(2)(torch.randn(6, 4))
    with pytest.raises(ValueError, match="6 positions cannot be set side by side 4 at a time; a multiple of 4"):
        layers.FlattenConsecutive(4)(torch.randn(2, 6, 3))


@pytest.mark.parametrize("parts", [layers, torch.nn], ids=["ours", "torch"])
def test_a_hook_sees_each_forward_pass_until_it_is_removed_as_in_torch(parts):
    first, second = parts.Tanh(), parts.Tanh()
    network, seen = parts.Sequential(first, second), []
    handles = [
        second.register_forward_hook(lambda layer, inputs, out: seen.append((layer, inputs, out))),
        second.register_forward_hook(lambda *_: seen.append("second hook")),
    ]
    x = torch.randn(3)
    out = network(x)
    assert torch.equal(seen[0][1][0], x.tanh()) and seen[0][2] is out and seen[0][0] is second
    assert seen[1:] == ["second hook"]
    handles[0].remove()
    network(x)
    assert seen[1:] == ["second hook"] * 2
    handles[1].remove()
    network(x)
    assert len(seen) == 3


@FLOATS
def test_dropout_is_a_mask_times_its_input_scaled_so_that_the_mean_stays(dtype, tolerance):
    x = (torch.rand(1000, 100, dtype=dtype) + 1).requires_grad_()
    out = layers.Dropout(0.3)(x)
    kept = out != 0
    same(out, x * kept / 0.7, tolerance)
    assert out.dtype == dtype
    assert kept.double().mean().item() == pytest.approx(0.7, abs=0.01)  # 7 standard errors
    assert not torch.equal(kept[0], kept[1])
    out.sum().backward()
    same(x.grad, kept / torch.tensor(0.7, dtype=dtype), tolerance)


def test_dropout_draws_from_its_generator_alone():
    x, before = torch.ones(1000), torch.get_rng_state()
    a, b, c = (layers.Dropout(0.5, torch.Generator().manual_seed(seed))(x) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c) and layers.Dropout(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_embeddings_begin_standard_normal():
    numbers = layers.Embedding(100, 1000).weight
    assert abs(numbers.mean().item()) < 0.02 and numbers.std().item() == pytest.approx(1, abs=0.02)
    assert (numbers.abs() < 1).double().mean().item() == pytest.approx(0.683, abs=0.01)


def test_in_evaluation_dropout_does_nothing():
    x, dropout = torch.randn(50, 50), layers.Dropout(0.5)
    network = layers.Sequential(layers.Tanh(), layers.Sequential(dropout))
    assert network.eval() is network and torch.equal(network(x), x.tanh())
    assert not (dropout.training or network.training or network.layers[1].training)
    assert network.train() is network and not torch.equal(network(x), x.tanh())
    assert torch.equal(layers.Dropout(0.0)(x), x)


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_a_share_that_cannot_be_is_refused(p):
    with pytest.raises(ValueError, match=f"p is {p}; a probability"):
        layers.Dropout(p)


@pytest.mark.parametrize(("n_in", "n_out"), [(0, 3), (2, -3)])
def test_a_linear_layer_without_inputs_or_outputs_is_refused(n_in, n_out):
    with pytest.raises(ValueError, match=f"in_features is {n_in} and out_features is {n_out}; at least 1"):
        layers.Linear(n_in, n_out)


def test_one_target_for_each_row_of_logits_is_expected():
    with pytest.raises(ValueError, match=r"\(2,\) targets for logits \(5, 3\); one for each row"):
        layers.cross_entropy(torch.zeros(5, 3), torch.zeros(2, dtype=torch.int64))
