"""The ablation: each variant lacks what its name says and nothing else, and verdicts need more than the spread."""

import json
import math
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

ablation = import_module("03_nanogpt.ablation")
model = import_module("03_nanogpt.model")

CONFIG = model.NonaGPTConfig(block_size=8, vocab_size=20, n_layer=2, n_head=4, n_embd=16)


def made(variant):
    """The variant from one seed, with weights strong enough to show every difference."""
    torch.manual_seed(4)
    net = ablation.VARIANTS[variant](CONFIG).eval()
    rng = torch.Generator().manual_seed(5)
    for name, parameter in net.named_parameters():
        if parameter.requires_grad and not ("ln" in name and name.endswith("weight")):
            torch.nn.init.normal_(parameter, std=0.4, generator=rng)
    return net.double()


def by_hand(net, idx, positions=True, n_head=4, residual=True, norm=True, scale=True):
    """NonaGPT's logits from the weights of a full model, with one part left out."""

    def normal(x, layer):
        return F.layer_norm(x, (16,), layer.weight, layer.bias) if norm else x

    def attend(x, sa):
        q, k, v = (part.unflatten(-1, (n_head, -1)).transpose(1, 2) for part in sa.qkv(x).chunk(3, dim=-1))
        scores = q @ k.mT / (math.sqrt(16 // n_head) if scale else 1)
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
        return sa.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    x = net.token_embedding_table(idx)
    if positions:
        x = x + net.position_embedding_table.weight[: idx.shape[1]]
    for block in net.blocks:
        y = attend(normal(x, block.ln1), block.sa)
        x = x + y if residual else y
        h = F.gelu(block.ffwd.widen(normal(x, block.ln2)), approximate="tanh")
        x = x + block.ffwd.narrow(h) if residual else block.ffwd.narrow(h)
    return normal(x, net.ln_f) @ net.token_embedding_table.weight.T


WITHOUT = {
    "full": {},
    "no positions": {"positions": False},
    "one head": {"n_head": 1},
    "no residual": {"residual": False},
    "no LayerNorm": {"norm": False},
    "no 1/√D": {"scale": False},
}


def shared_weights(variant):
    """A full model and the variant with the same numbers in the parts that both have."""
    whole, net = made("full"), made(variant)
    if variant == "no residual":
        for ours, block in zip(net.blocks, whole.blocks, strict=True):
            for mine, theirs in zip(ours, (block.ln1, block.sa, block.ln2, block.ffwd), strict=True):
                mine.load_state_dict(theirs.state_dict())
        names = [name for name in whole.state_dict() if not name.startswith("blocks")]
        net.load_state_dict({name: whole.state_dict()[name] for name in names}, strict=False)
    else:
        wanted = {n: t for n, t in whole.state_dict().items() if n in net.state_dict()}
        if variant == "no positions":
            del wanted["position_embedding_table.weight"]
        net.load_state_dict(wanted, strict=False)
    return whole, net


@pytest.mark.parametrize("variant", ablation.VARIANTS)
def test_each_variant_computes_the_model_without_that_part_alone(variant):
    whole, net = shared_weights(variant)
    ids = torch.randint(20, (3, 8))
    expected = by_hand(whole, ids, **WITHOUT[variant])
    torch.testing.assert_close(net(ids)[0], expected)
    if variant != "full":
        assert (expected - whole(ids)[0]).abs().max() > 0.01


def test_all_variants_of_one_seed_start_from_the_same_weights():
    def start(variant):
        torch.manual_seed(7)
        return ablation.VARIANTS[variant](CONFIG)

    whole = torch.cat([p.flatten() for n, p in start("full").named_parameters() if "ln" not in n and "position" not in n])
    for variant in ablation.VARIANTS:
        net = start(variant)
        norms = {id(p) for m in net.modules() if isinstance(m, torch.nn.LayerNorm) for p in m.parameters()}
        rest = [p.flatten() for n, p in net.named_parameters() if id(p) not in norms and "position" not in n]
        assert torch.equal(torch.cat(rest), whole), variant


def test_training_without_positions_leaves_them_at_zero(monkeypatch):
    torch.manual_seed(0)
    ids = torch.randint(97, 123, (3000,))
    net = ablation.without_positions(CONFIG)
    monkeypatch.setitem(ablation.VARIANTS, "no positions", lambda config: net)
    monkeypatch.setattr(ablation, "RECIPE", replace(ablation.RECIPE, model=CONFIG))
    before = net.ln_f.bias.clone()
    training = ablation.train("no positions", 1, 3, ids % 20, ids[:200] % 20)
    assert training.steps == [1, 2] and len(training.curve) == 2
    assert (net.position_embedding_table.weight == 0).all() and not torch.equal(net.ln_f.bias, before)


def test_variants_of_one_seed_read_the_same_batches_and_are_scored_on_all_at_the_end(monkeypatch):
    begun, scored = [], []

    def updates(net, ids, recipe):
        begun.append((recipe, net.lm_head.weight.detach().clone()))
        yield from (0.0, 0.0)

    monkeypatch.setattr(ablation, "updates", updates)
    monkeypatch.setattr(ablation, "score", lambda net, ids: scored.append(len(ids)) or 1.0)
    ids = torch.zeros(9000, dtype=torch.long)
    for variant, seed in (("full", 1), ("one head", 1), ("full", 2)):
        ablation.train(variant, seed, 2, ids, ids)
    (recipe, weights), (same_recipe, same_weights), (other_recipe, other_weights) = begun
    assert recipe == same_recipe and recipe.seed == 1 and other_recipe == replace(recipe, seed=2)
    assert torch.equal(weights, same_weights) and not torch.equal(weights, other_weights)
    assert scored == [2**13 + 1, 9000] * 3


def test_a_run_that_is_stopped_leaves_the_results_so_far(tmp_path, text_file, monkeypatch, capsys):
    done = []

    def train(variant, seed, *others):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(ablation.Training(variant, seed, [1], [2.0], 2.0))
        return done[-1]

    monkeypatch.setattr(ablation, "train", train)
    assert ablation.main(["--data", str(text_file), "--device", "cpu", "--run", str(tmp_path)]) == 130
    assert ablation.read_results(tmp_path / "ablation.jsonl") == done


def test_a_training_is_the_same_again_and_another_from_another_seed():
    ids = torch.randint(97, 123, (3000,))
    first, again, other = (ablation.train("full", seed, 4, ids, ids[:200]) for seed in (1, 1, 2))
    assert first == again and first.curve != other.curve and first.val_loss != other.val_loss


@pytest.mark.parametrize(
    ("full", "other", "said"),
    [
        ([2.0, 2.1, 2.05], [2.3, 2.35, 2.4], "worse by 0.300"),
        ([2.0, 2.1, 2.05], [1.8, 1.8, 1.8], "better by 0.250"),
        ([2.0, 2.1, 2.05], [2.1, 2.12, 2.11], "no verdict: within the spread of the seeds"),
        ([2.0, 2.0, 2.0], [2.0, 2.3, 2.6], "no verdict: within the spread of the seeds"),
        ([2.0], [3.0], "no verdict: one seed has no spread"),
    ],
)
def test_a_verdict_needs_a_gap_beyond_the_spread(full, other, said):
    assert ablation.verdict(full, other) == said


def training(variant, seed, last):
    return ablation.Training(variant, seed, [10, 20], [3.0, last + 1], last)


def test_the_table_holds_means_ranges_and_verdicts():
    trainings = [training(v, s, x) for v, xs in {"full": (2.0, 2.1), "one head": (2.4, 2.6)}.items() for s, x in enumerate(xs)]
    assert ablation.table(trainings).splitlines()[2:] == [
        "| full | 2.050 | 2.000 to 2.100 |  |",
        "| one head | 2.500 | 2.400 to 2.600 | worse by 0.450 |",
    ]


def test_results_come_back_from_their_file(tmp_path):
    trainings = [training("full", 1, 2.0), training("no 1/√D", 1, 2.5)]
    ablation.write_results(tmp_path / "results.jsonl", trainings)
    assert ablation.read_results(tmp_path / "results.jsonl") == trainings


def test_the_picture_has_a_line_for_each_variants_mean():
    trainings = [training(v, s, 2.0 + s) for v in ablation.VARIANTS for s in (0, 1)]
    [axes] = ablation.draw_curves(trainings).get_axes()
    assert [line.get_label() for line in axes.get_lines()] == list(ablation.VARIANTS)
    assert all(line.get_ydata().tolist() == [3.0, 3.5] for line in axes.get_lines())
    bands = [path.vertices[:, 1] for band in axes.collections for path in band.get_paths()]
    assert [(band.min(), band.max()) for band in bands] == [(3.0, 4.0)] * len(ablation.VARIANTS)


def test_the_recorded_results_are_of_every_variant_from_three_seeds():
    recorded = ablation.read_results(ablation.RECORDED)
    assert sorted((t.variant, t.seed) for t in recorded) == sorted((v, s) for v in ablation.VARIANTS for s in (1, 2, 3))
    assert len({tuple(t.steps) for t in recorded}) == 1 and recorded[0].steps[-1] == 0.95 * ablation.AblationConfig().steps


def test_the_command_trains_all_prints_the_table_and_leaves_results_and_curves(tmp_path, text_file, capsys):
    flags = ["--steps", "2", "--seeds", "2", "--data", str(text_file), "--device", "cpu", "--run", str(tmp_path / "run")]
    assert ablation.main(flags) == 0
    said = capsys.readouterr().out
    recorded = ablation.read_results(tmp_path / "run" / "ablation.jsonl")
    assert [(t.seed, t.variant) for t in recorded] == [(s, v) for s in (1, 2) for v in ablation.VARIANTS]
    assert "validation loss after 2 updates" in said and all(f"| {variant} |" in said for variant in ablation.VARIANTS)
    assert (tmp_path / "run" / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "run" / "ablation.jsonl").read_text().splitlines()) == 12
    assert json.loads((tmp_path / "run" / "ablation.jsonl").read_text().splitlines()[0])["variant"] == "full"

    assert ablation.main(flags) == 2
    assert "already holds results; name another folder with --run, or give --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--steps 0", "--steps is 0; at least 1 is expected"),
        ("--seeds 0", "--seeds is 0; at least 1 is expected"),
        ("--data nowhere.txt", "cannot read nowhere.txt"),
        ("--data {short}", "is too short: its 17 characters leave 2 to validate on"),
    ],
)
def test_wrong_use_gets_one_sentence(tmp_path, flags, message, capsys):
    short = tmp_path / "short.txt"
    short.write_text("Too short a text.")
    assert ablation.main([*flags.format(short=short).split(), "--run", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_the_readme_shows_the_recorded_table():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert ablation.table(ablation.read_results(ablation.RECORDED)) in readme
