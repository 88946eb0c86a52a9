"""The training command: its arithmetic, what it leaves behind, and what wrong input gets."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from shared import ngrams
from shared.cli import RunError

checkpoint = import_module("03_nanogpt.checkpoint")
config = import_module("03_nanogpt.config")
data = import_module("03_nanogpt.data")
model = import_module("03_nanogpt.model")
train = import_module("03_nanogpt.train")

ROOT = Path(__file__).parents[2]
RECIPE = replace(
    config.PRESETS["cpu"],
    model=model.NonaGPTConfig(block_size=8, n_layer=1, n_head=2, n_embd=16),
    steps=6,
    batch_size=3,
    lr=1e-2,
    min_lr=1e-3,
    warmup_steps=2,
    beta2=0.95,
    weight_decay=0.3,
    max_grad_norm=0.2,
)


def ids(n=400):
    return torch.randint(128, (n,))


def test_updates_are_those_of_plain_pytorch():
    """AdamW on two groups, clipping, warm-up and cosine, written here once more, in float64."""
    text, ours, theirs = ids(), model.NonaGPT(RECIPE.model).double(), model.NonaGPT(RECIPE.model).double()
    theirs.load_state_dict(ours.state_dict())
    losses = list(train.updates(ours, text, RECIPE))

    matrices, rest = ([p for p in theirs.parameters() if (p.dim() > 1) == wanted] for wanted in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.0}])
    generator = torch.Generator().manual_seed(RECIPE.seed)
    cosine = [1e-3 + 9e-3 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)]
    for loss, lr in zip(losses, [5e-3, 1e-2, *cosine], strict=True):
        x, y = data.random_batch(text, 3, 8, generator)
        expected = F.cross_entropy(theirs(x)[0].transpose(1, 2), y)
        assert loss == pytest.approx(expected.item(), rel=1e-9)
        optimizer.zero_grad()
        expected.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.2)
        for group in optimizer.param_groups:
            group.update(lr=lr, betas=(0.9, 0.95), eps=1e-8)
        optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_training_is_with_dropout_and_validation_without():
    net = model.NonaGPT(replace(RECIPE.model, dropout=0.4))
    text = ids()
    assert train.score(net, text) == train.score(net, text)
    for _ in train.updates(net, text, RECIPE):
        assert net.training
        train.score(net, text)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step():
    net = model.NonaGPT(RECIPE.model)
    torch.nn.init.constant_(net.ln_f.bias, math.nan)
    with pytest.raises(RunError, match=r"loss nan at step 1: the run stops; take a learning rate below 0\.01"):
        next(train.updates(net, ids(), RECIPE))


@pytest.mark.parametrize("n", [2, 8, 9, 10, 100, 403])
def test_the_score_is_the_mean_over_each_character_once_in_windows_side_by_side(n):
    net, text = model.NonaGPT(RECIPE.model).eval(), ids(n)
    torch.nn.init.normal_(net.lm_head.weight)
    losses = []
    for start in range(0, n - 1, 8):
        window = text[start : start + 9]
        log_p = net(window[None, :-1])[0][0].log_softmax(-1)
        losses += [-log_p[i, target].item() for i, target in enumerate(window[1:].tolist())]
    assert len(losses) == n - 1
    assert train.score(net, text, rows=5) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_a_run_leaves_the_best_weights_the_curve_and_samples(finished_run):
    assert {path.name for path in finished_run.iterdir()} == {"model.safetensors", "loss.png", "samples.txt"}
    assert (finished_run / "loss.png").read_bytes().startswith(b"\x89PNG")
    samples = (finished_run / "samples.txt").read_text()
    assert re.findall(r"=== (.+) ===", samples) == ["after 10 updates", "after 20 updates", "after 30 updates", "at the end"]
    assert len(samples.split("=== at the end ===\n")[1].removesuffix("\n\n")) == 500
    assert checkpoint.load(finished_run).config == model.NonaGPTConfig(block_size=16, n_layer=1, n_head=2, n_embd=16)


def test_a_run_says_what_it_is_how_good_it_became_and_what_counting_reaches(tmp_path, short, text_file, capsys):
    assert train.main(["--run", str(tmp_path / "run"), *short]) == 0
    said = capsys.readouterr().out
    net = checkpoint.load(tmp_path / "run")
    train_text, val_text = data.split(text_file.read_text())
    val_loss = train.score(net, torch.tensor(list(val_text.encode())))
    counting = -math.fsum(map(math.log, ngrams.probabilities(train_text.encode(), val_text.encode())[1:])) / (
        len(val_text) - 1
    )
    assert f"{net.n_params:,} parameters" in said and f"{len(train_text):,} characters to learn from" in said
    assert f"all {len(val_text) - 1:,} characters held out: {val_loss:.3f} nats per character" in said
    assert re.search(rf"counting 5-grams: +{counting:.3f}; counting is better", said)
    validated = re.findall(r"step (\d+): loss [\d.]+, validation ([\d.]+); it writes: ", said)
    assert [step for step, _ in validated] == ["10", "20", "30"]
    assert float(validated[0][1]) > float(validated[-1][1])
    assert re.search(r"training took \d+ s, of the CPU \d+ s", said)
    assert said.endswith(f"python -m 03_nanogpt.generate --checkpoint {tmp_path / 'run'}\n")


def test_the_weights_kept_are_those_of_the_best_validation(tmp_path, short, text_file, monkeypatch):
    scores, states, lengths = iter([3.0, 2.0, 2.5, 2.2]), [], []

    def score(net, ids):
        lengths.append(len(ids))
        states.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        return next(scores)

    monkeypatch.setattr(train, "score", score)
    assert train.main(["--run", str(tmp_path), "-q", *short, "--eval-chars", "100"]) == 0
    kept = checkpoint.load(tmp_path).state_dict()
    n_val = len(data.split(text_file.read_text())[1])
    assert lengths == [101, 101, 101, n_val]  # the first character is not predicted
    assert all(torch.equal(kept[name], tensor) for name, tensor in states[3].items())  # the end scores what was kept
    assert all(torch.equal(kept[name], tensor) for name, tensor in states[1].items())
    assert not torch.equal(kept["ln_f.bias"], states[2]["ln_f.bias"])


def test_the_same_seed_trains_the_same_model_and_another_another(tmp_path, short, finished_run):
    for name, flags in (("again", []), ("other", ["--seed", "1"])):
        assert train.main(["--run", str(tmp_path / name), "-q", *short, *flags]) == 0
    first, again, other = (checkpoint.load(f).lm_head.weight for f in (finished_run, tmp_path / "again", tmp_path / "other"))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_quiet_run_says_nothing(tmp_path, short, capfd):
    assert train.main(["--run", str(tmp_path), "-q", *short]) == 0
    assert capfd.readouterr() == ("", "")


def test_nothing_is_overwritten_unless_asked_for(finished_run, short, capsys):
    before = {path.name: path.read_bytes() for path in finished_run.iterdir()}
    assert train.main(["--run", str(finished_run), *short]) == 2
    assert "already holds a run; name another folder with --run, or give --overwrite" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in finished_run.iterdir()}


def test_overwriting_replaces_the_run_and_leaves_other_files(tmp_path, short):
    (tmp_path / "samples.txt").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    assert train.main(["--run", str(tmp_path), "-q", "--overwrite", *short]) == 0
    assert (tmp_path / "notes.txt").read_text() == "mine" and "old" not in (tmp_path / "samples.txt").read_text()


def test_a_text_that_is_not_ascii_is_learned_from_and_what_was_replaced_is_said(tmp_path, short, capsys):
    file = tmp_path / "accents.txt"
    file.write_text("“Où est-il?” — Là, près du café.\n" * 40, encoding="utf-8")
    assert train.main([*short, "--data", str(file), "--run", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert '280 characters are not ASCII: “ became " (40 times)' in said and "ù became u (40 times)" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--preset tpu", "--preset tpu is not one of cpu, gpu"),
        ("--data nowhere.txt", "cannot read nowhere.txt: No such file or directory; a UTF-8 text file is expected"),
        ("--steps 0", "--steps is 0; at least 1 is expected"),
        ("--steps 20 --warmup-steps 30", "--warmup-steps is 30; 0 to the run's 20 steps is expected"),
        ("--run=", "--run is ''; the name of a folder is expected"),
        ("--lr -1", "--lr is -1.0; a number above 0 is expected"),
        ("--lr 1e-3 --min-lr 1", "--min-lr is 1.0; between 0 and the highest rate, 0.001, is expected"),
        ("--n-head 3", "--n-head 3 does not divide --n-embd 16"),
        ("--dropout 1", "--dropout is 1.0; a share of at least 0 and below 1 is expected"),
        ("--weight-decay nan", "--weight-decay is nan; a number of at least 0 is expected"),
        ("--block-size 1000", "more than the block size of 1000 are needed; take a longer text"),
        ("--vocab-size 99", "there is no flag --vocab-size"),
    ],
)
def test_wrong_use_gets_one_sentence_and_leaves_no_folder(tmp_path, short, flags, message, capsys):
    assert train.main([*short, "--run", str(tmp_path / "run"), *flags.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_is_trained_on_is_the_training_part_alone(tmp_path, short, text_file, monkeypatch):
    read = []

    def updates(net, ids, config):
        read.append(ids)
        yield 1.0

    monkeypatch.setattr(train, "updates", updates)
    assert train.main([*short, "-q", "--steps", "1", "--warmup-steps", "0", "--run", str(tmp_path)]) == 0
    assert bytes(read[0].tolist()).decode() == data.split(text_file.read_text())[0]


def test_a_run_that_diverges_in_its_last_step_ends_in_one_sentence(tmp_path, short, capsys):
    assert train.main([*short, "--steps", "1", "--warmup-steps", "0", "--lr", "1e38", "--run", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "loss nan at step 1: the run stops; take a learning rate below 1e+38" in error and "Traceback" not in error


def test_a_short_run_warms_up_for_a_tenth_of_it():
    assert [replace(RECIPE, steps=n, warmup_steps=None).warmup for n in (5, 30, 999, 3200)] == [0, 3, 99, 100]


def test_the_verdict_says_who_is_better():
    assert train.verdict(1.6, 1.7, RECIPE) == "the model is better"
    said = train.verdict(1.7, 1.6, RECIPE)
    assert said.startswith("counting is better: take more than 6 --steps, or a longer text (preset cpu passes it on tiny")
    assert train.verdict(1.7, 1.6, replace(RECIPE, data="my.txt")).endswith("or a longer text")


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_removed(tmp_path, short, capsys):
    (tmp_path / "loss.png").mkdir()
    (tmp_path / "model.safetensors").write_text("old")
    assert train.main([*short, "--overwrite", "--run", str(tmp_path)]) == 2
    assert (tmp_path / "model.safetensors").read_text() == "old"


def test_a_run_folder_that_is_a_file_is_refused(tmp_path, short, capsys):
    (tmp_path / "run").write_text("mine")
    assert train.main([*short, "--run", str(tmp_path / "run")]) == 2
    assert "cannot be a run's folder" in capsys.readouterr().err
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_finishes_its_step_and_keeps_its_weights(tmp_path, short, number):
    flags, began = [*short, "--steps", "1000000", "--run", str(tmp_path / "run")], time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "03_nanogpt.train", *flags], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        while not (tmp_path / "run" / "model.safetensors").exists():
            if run.poll() is not None or time.perf_counter() > began + 120:
                run.kill()
                pytest.fail(f"no weights after {time.perf_counter() - began:.0f} s: {run.communicate()}")
            time.sleep(0.05)
        os.kill(run.pid, number)
        said, error = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert "holds the best weights so far" in said and "Traceback" not in error
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"model.safetensors", "loss.png", "samples.txt"}
    checkpoint.load(tmp_path / "run")


def test_the_presets_are_a_laptops_and_the_published_gpu_model():
    gpu = config.PRESETS["gpu"]
    assert (gpu.model.n_layer, gpu.model.n_head, gpu.model.n_embd, gpu.model.block_size, gpu.model.dropout) == (
        6,
        6,
        384,
        256,
        0.2,
    )
    assert (gpu.batch_size, gpu.steps, gpu.lr, gpu.min_lr, gpu.beta2) == (64, 5000, 1e-3, 1e-4, 0.99)
    assert config.configure(["--device", "cpu"]).preset == "cpu"
    assert config.configure(["--preset", "gpu", "--steps", "7", "--warmup-steps", "1"]).steps == 7
