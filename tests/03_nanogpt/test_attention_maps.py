"""Attention maps: the weights that the model really uses, and their picture."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

ASSET = Path(__file__).parents[2] / "assets" / "attention-maps.png"
checkpoint = import_module("03_nanogpt.checkpoint")
maps = import_module("03_nanogpt.attention_maps")
model = import_module("03_nanogpt.model")


def small():
    net = model.NonaGPT(model.NonaGPTConfig(block_size=12, n_layer=3, n_head=2, n_embd=8, dropout=0.5))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return net.double()


def test_maps_are_shares_of_the_past_for_every_layer_and_head():
    shares = maps.attention_maps(small(), torch.randint(128, (9,)))
    assert shares.shape == (3, 2, 9, 9)
    torch.testing.assert_close(shares.sum(-1), torch.ones(3, 2, 9, dtype=torch.float64))
    assert (shares >= 0).all() and (shares.triu(1) == 0).all()


def test_they_are_what_pytorchs_multihead_attention_reports():
    net, ids = small().eval(), torch.randint(128, (9,))
    shares = maps.attention_maps(net, ids)
    x = net.token_embedding_table(ids) + net.position_embedding_table(torch.arange(9))
    for layer, block in enumerate(net.blocks):
        theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
        theirs.in_proj_weight.data, theirs.in_proj_bias.data = block.sa.qkv.weight.data, block.sa.qkv.bias.data
        normal = F.layer_norm(x, (8,), block.ln1.weight, block.ln1.bias)[None]
        future = torch.ones(9, 9, dtype=torch.bool).triu(1)
        _, expected = theirs(normal, normal, normal, attn_mask=future, average_attn_weights=False)
        torch.testing.assert_close(shares[layer], expected[0])
        x = block(x[None])[0]


def test_looking_changes_nothing():
    net, ids = small().train(), torch.randint(128, (9,))
    maps.attention_maps(net, ids)
    assert net.training and not any(module._forward_pre_hooks for module in net.modules())
    with pytest.raises(ValueError, match="13 characters in a row"):
        maps.attention_maps(net, torch.zeros(13, dtype=torch.long))
    assert net.training and not any(module._forward_pre_hooks for module in net.modules())


def test_the_picture_has_a_panel_for_each_head_that_shows_its_numbers_and_letters():
    text = "To be\x1b\nor"
    shares = maps.attention_maps(small(), torch.tensor(list(text.encode())))
    figure = maps.draw_attention_maps(shares, text, "What each head reads")
    *panels, bar = figure.get_axes()
    assert bar.get_ylabel() == "share of the attention" and bar.get_ylim() == (0, 1)
    assert [axes.get_title(loc="left") for axes in panels] == [f"layer {i}, head {j}" for i in (1, 2, 3) for j in (1, 2)]
    for axes, expected in zip(panels, shares.flatten(0, 1), strict=True):
        shown = torch.from_numpy(axes.get_images()[0].get_array().filled())
        assert torch.equal(shown, expected) and axes.get_images()[0].get_clim() == (0, 1)
    letters = list("To␣be·¶or")
    assert [label.get_text() for label in panels[0].get_yticklabels()] == letters
    assert [label.get_text() for label in panels[-1].get_xticklabels()] == letters
    assert panels[0].get_ylabel() == "reader" and panels[-1].get_xlabel() == "what it reads"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_command_draws_the_maps_of_a_trained_model(finished_run, tmp_path, capsys):
    flags = ["--checkpoint", str(finished_run), "--text", "7 times 7 is’"]
    assert maps.main([*flags, "--to", str(tmp_path / "maps.png")]) == 0
    said = capsys.readouterr()
    assert f"{tmp_path / 'maps.png'} holds the maps" in said.out and "’ became ' (once)" in said.err
    net = checkpoint.load(finished_run)
    expected = maps.attention_maps(net, torch.tensor(list(b"7 times 7 is'")))
    picture = maps.draw_attention_maps(expected, "7 times 7 is'", "What each head reads")._repr_png_()
    assert (tmp_path / "maps.png").read_bytes() == picture


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoint", "nowhere"], "model.safetensors is not there; train a model first"),
        (["--text", ""], "--text has 0 characters; 1 to 16"),
        (["--text", "x" * 17], "--text has 17 characters; 1 to 16"),
        (["--to", str(ASSET)], "is there already; name another file with --to, or give --overwrite"),
        (["--to", "no/such/maps.png"], "--to no/such/maps.png cannot be written; the name of a .png file in a folder"),
        (["--to", "maps.jpg"], "--to maps.jpg cannot be written; the name of a .png file"),
    ],
)
def test_wrong_use_gets_one_sentence(finished_run, tmp_path, flags, message, capsys):
    assert maps.main(["--checkpoint", str(finished_run), "--to", str(tmp_path / "maps.png"), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "maps.png").exists()
