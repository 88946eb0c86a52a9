"""The training command: what it leaves behind, that its arithmetic is right, and what wrong input gets."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from shared import ngrams

config = import_module("04_gpt2.config")
data = import_module("04_gpt2.token_data")
loader = import_module("04_gpt2.loader")
model = import_module("04_gpt2.model")
optim = import_module("04_gpt2.optim")
train = import_module("04_gpt2.train")

ROOT = Path(__file__).parents[2]
DEBUG = config.PRESETS["debug"]


def trained(tmp_path, *flags, name="run"):
    """Run the debug preset with these flags; its folder."""
    assert train.main(["--preset", "debug", "--run", str(tmp_path / name), "-q", *flags]) == 0
    return tmp_path / name


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    """Those of the newest checkpoint."""
    return load_file(max((folder / "checkpoints").iterdir()) / "model.safetensors")


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(*flags):
    return [sys.executable, "-m", "04_gpt2.train", *flags]


def test_a_run_leaves_what_it_promises(finished_run):
    assert {path.name for path in finished_run.iterdir()} == {
        "checkpoints",
        "metrics.jsonl",
        "loss.png",
        "samples.txt",
    }
    records = metrics(finished_run)
    steps = [r for r in records if "loss" in r]
    assert [r["step"] for r in steps] == list(range(1, 21))
    assert all(r.keys() == {"step", "loss", "lr", "grad_norm", "tokens_per_second"} for r in steps)
    assert [r["step"] for r in records if "val_loss" in r] == [0, 10, 20]
    end = records[-1]
    assert end["step"] == 20 and 0 <= end["known_word_share"] <= 1 and end["whole_val_bits_per_byte"] > 0
    assert [path.name for path in sorted((finished_run / "checkpoints").iterdir())] == [
        "step-000000",
        "step-000010",
        "step-000020",
    ]
    samples = (finished_run / "samples.txt").read_text(encoding="utf-8")
    assert samples.count("=== after ") == 3 and samples.count("=== at the end, ") == 8


def test_a_run_equals_the_same_training_in_plain_pytorch(tmp_path):
    """Every loss, every validation and the final weights, with the loop, the schedule and the optimizer written out here."""
    flags = ["--steps", "6", "--warmup-steps", "2", "--lr", "0.01", "--min-lr", "0.001", "--eval-every", "3"]
    flags += ["--beta1", "0.8", "--beta2", "0.9", "--weight-decay", "0.3", "--max-grad-norm", "0.5"]
    records = metrics(folder := trained(tmp_path, *flags))
    prepared = data.prepare(data.load_text("tinyshakespeare"), "bpe", 512)
    order = loader.Loader(prepared.train, 16, 32, DEBUG.seed)  # four micro-batches of 4 are one of 16
    torch.manual_seed(DEBUG.seed)
    gpt = model.GPT(DEBUG.model)
    matrices = [p for p in gpt.parameters() if p.dim() == 2]
    vectors = [p for p in gpt.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.8, 0.9), foreach=False)
    rates = [0.005, 0.01, *(0.001 + 0.009 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4))]
    held_out = torch.from_numpy(prepared.val[:2049].astype("int64"))
    validations, losses = [], []
    for step, rate in enumerate([*rates, None]):
        if step % 3 == 0:
            logits = gpt.eval()(held_out[:-1].view(-1, 32))
            validations.append(F.cross_entropy(logits.flatten(0, 1), held_out[1:]).item())
        if rate is None:
            break
        x, y = next(order)
        loss = F.cross_entropy(gpt.train()(x).flatten(0, 1), y.flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    assert [r["lr"] for r in records if "lr" in r] == pytest.approx(rates)
    assert [r["loss"] for r in records if "loss" in r] == pytest.approx(losses, rel=1e-4)
    assert [r["val_loss"] for r in records if "val_loss" in r] == pytest.approx(validations, rel=1e-4)
    saved = weights(folder)
    for name, parameter in gpt.named_parameters():
        if name.endswith(
            "c_attn.bias"
        ):  # a key's bias changes no attention: its gradient is rounding noise, which AdamW scales up
            continue
        torch.testing.assert_close(saved[name], parameter.data, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_dropout_is_on_while_training(finished_run, tmp_path):
    folder = trained(tmp_path, "--dropout", "0.5", "--steps", "5", "--seed", "1337")
    plain = [r["loss"] for r in metrics(finished_run) if "loss" in r][:5]
    assert [r["loss"] for r in metrics(folder) if "loss" in r] != pytest.approx(plain, rel=1e-4)


def test_the_share_of_known_words_is_that_of_the_long_samples(finished_run):
    samples = (finished_run / "samples.txt").read_text(encoding="utf-8").split("=== at the end, 1 of 8 ===\n")[1]
    written = re.sub(r"=== at the end, \d of 8 ===", " ", samples)
    known = set(re.findall(r"[a-z]+(?:'[a-z]+)*", data.load_text("tinyshakespeare").lower()))
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", written.lower())
    assert metrics(finished_run)[-1]["known_word_share"] == pytest.approx(
        sum(w in known for w in words) / len(words), abs=0.01
    )


def test_the_first_loss_is_ln_of_the_vocabulary_and_the_last_is_lower(finished_run):
    losses = [r["loss"] for r in metrics(finished_run) if "loss" in r]
    assert abs(losses[0] - math.log(512)) < 0.1
    assert losses[-1] < losses[0] - 0.5


def test_the_learning_rate_follows_the_schedule(finished_run):
    rates = [r["lr"] for r in metrics(finished_run) if "loss" in r]
    assert rates == [optim.cosine_with_warmup(step, DEBUG) for step in range(20)]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(finished_run, tmp_path):
    first = weights(finished_run)
    again = weights(trained(tmp_path, name="again"))
    other = weights(trained(tmp_path, "--seed", "5", name="other"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["transformer.wte.weight"], other["transformer.wte.weight"])


def test_accumulated_gradients_are_those_of_the_big_batch():
    tokens = data.tokenise("to be or not to be " * 400, data.choose_tokenizer("bpe", "to be or not to be", 262))
    gradients, losses = [], []
    for batch_size in (1, 4, 16):
        torch.manual_seed(2)
        gpt = model.GPT(DEBUG.model)
        batches = loader.Loader(tokens, batch_size, 32, seed=3)
        losses.append(train.accumulate_gradients(gpt, batches, 16 // batch_size, torch.float32))
        gradients.append([p.grad for p in gpt.parameters()])
    assert losses == pytest.approx([losses[-1]] * 3, rel=1e-6)
    for big, *parts in zip(*reversed(gradients), strict=True):
        for part in parts:
            torch.testing.assert_close(part, big, atol=1e-6, rtol=1e-4)


def test_gradients_are_clipped_to_their_global_norm(tmp_path):
    """With plain arithmetic: the first update of a run whose gradients are clipped far below their norm."""
    folder = trained(tmp_path, "--steps", "1", "--warmup-steps", "0", "--max-grad-norm", "1e-9", "--weight-decay", "0")
    before = {r["step"]: r for r in metrics(folder) if "loss" in r}[1]
    assert before["grad_norm"] > 0.1  # reported as it was
    torch.manual_seed(DEBUG.seed)
    fresh = model.GPT(DEBUG.model).state_dict()
    moved = weights(folder)
    # AdamW's first update is lr * g / (|g| + eps); gradients below eps = 1e-8 move a weight far less than lr.
    assert max((moved[name] - fresh[name]).abs().max().item() for name in moved) < 0.1 * DEBUG.lr


def test_compiling_changes_neither_the_run_nor_its_checkpoint(finished_run, tmp_path, monkeypatch):
    compile_with_torch, calls = torch.compile, []

    def counting(net):
        compiled = compile_with_torch(net, backend="aot_eager")
        return lambda *batch: calls.append(batch) or compiled(*batch)

    monkeypatch.setattr(torch, "compile", counting)
    compiled = trained(tmp_path, "--compile", "on")
    assert len(calls) == 1 + 4 * 20  # the trial and the micro-batches: neither validation nor sampling
    expected = [r["loss"] for r in metrics(finished_run) if "loss" in r]
    assert [r["loss"] for r in metrics(compiled) if "loss" in r] == pytest.approx(expected, rel=1e-4)
    assert weights(compiled).keys() == weights(finished_run).keys()


def test_a_compiler_that_fails_is_one_sentence_and_the_run_before_is_kept(finished_run, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    before = content(folder)

    def fails(net):
        def forward(*_):
            raise RuntimeError("no C++ compiler\nwas found")

        return forward

    monkeypatch.setattr(torch, "compile", fails)
    assert train.main(["--preset", "debug", "--run", str(folder), "--overwrite", "--compile", "on"]) == 2
    assert capsys.readouterr().err == "error: torch.compile does not work here (no C++ compiler); give --compile off\n"
    assert content(folder) == before


def test_muon_trains_and_the_optimizers_rule_is_said_to_be_fixed(tmp_path, capsys):
    folder = trained(tmp_path, "--optimizer", "muon", "--split-qkv", "--steps", "40")
    losses = [record["val_loss"] for record in metrics(folder) if "val_loss" in record]
    assert losses[-1] < losses[0] - 1
    memory = load_file(max((folder / "checkpoints").iterdir()) / "optimizer.safetensors")
    assert memory["transformer.h.0.attn.c_attn.weight.momentum"].shape == (96, 32)
    assert "transformer.wte.weight.exp_avg_sq" in memory and "transformer.h.0.mlp.c_fc.weight.exp_avg" not in memory
    assert train.main(["--preset", "debug", "--run", str(folder), "--steps", "40", "--resume"]) == 2
    assert "optimizer was muon and is adamw, split_qkv was True and is False" in capsys.readouterr().err


def test_bfloat16_is_used_where_asked():
    tokens = data.tokenise("to be or not to be " * 400, data.choose_tokenizer("bpe", "to be or not to be", 262))
    gpt, seen = model.GPT(DEBUG.model), []

    def forward(x, y):
        seen.append(gpt.transformer.h[0].mlp.c_fc(torch.zeros(1, 1, 32)).dtype)
        return gpt(x, y)

    for dtype in (torch.float32, torch.bfloat16):
        train.accumulate_gradients(forward, loader.Loader(tokens, 4, 32, 0), 4, dtype)
    assert seen == [torch.float32] * 4 + [torch.bfloat16] * 4


def test_bfloat16_trains_to_nearly_the_same_loss_and_keeps_float32_weights(finished_run, tmp_path):
    folder = trained(tmp_path, "--dtype", "bfloat16")
    assert metrics(folder)[-1]["whole_val_loss"] == pytest.approx(metrics(finished_run)[-1]["whole_val_loss"], abs=0.05)
    assert all(tensor.dtype == torch.float32 for tensor in weights(folder).values())


def test_a_text_of_the_users_and_gpt2s_tokenizer_with_padded_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "LONG_SAMPLES", 1)
    (tmp_path / "mine.txt").write_text("Ich weiß nicht, was soll es bedeuten. " * 200, encoding="utf-8")
    flags = ["--data", str(tmp_path / "mine.txt"), "--tokenizer", "gpt2", "--vocab-size", "50304", "--steps", "5"]
    folder = trained(tmp_path, *flags)
    assert weights(folder)["transformer.wte.weight"].shape == (50304, 32)
    assert import_module("04_gpt2.generate").main(["--checkpoint", str(folder), "--max-new-tokens", "5"]) == 0


def test_the_first_line_says_what_why_where_how_long_and_how_else(tmp_path, capsys):
    assert train.main(["--preset", "debug", "--run", str(tmp_path / "run")]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("preset debug (asked for): 42,880 parameters on cpu")
    assert "20 steps of 512 tokens, about " in first and "choose otherwise with --preset" in first
    assert last == f'let it write: python -m 04_gpt2.generate --checkpoint {tmp_path / "run"} --prompt "ROMEO:"'


def test_samples_of_a_text_without_lines_begin_with_its_first_token():
    text = "to be or not to be " * 200
    for content, first in ((text, "to"), (text + "\n" + text, "\n")):
        prepared = data.prepare(content, "bpe", 280)
        assert prepared.tokenizer.decode(train.opening(prepared)) == first


@pytest.mark.parametrize(
    ("argv", "folder"),
    [
        ([], "shakespeare"),
        (["--data", "my texts/Faust.v2.txt"], "Faust.v2"),
        (["--preset", "debug"], "debug"),
        (["--data", "a.txt", "--run", "here"], "here"),
    ],
)
def test_the_folder_is_named_after_the_preset_or_the_users_text(argv, folder):
    config, _ = train.configure([*argv, "--device", "cpu"])
    assert config.run in (f"runs/{folder}", folder)


def test_the_end_holds_the_result_against_counting(tmp_path, capsys, monkeypatch):
    text = "".join(f"{n} times {n} is {n * n}.\n" for n in range(3000))
    (tmp_path / "text.txt").write_text(text)
    argv = ["--preset", "debug", "--data", str(tmp_path / "text.txt"), "--run", str(tmp_path / "run"), "--overwrite"]
    assert train.main(argv) == 0
    train_part, val_part = (part.encode() for part in data.split(text))
    counted = ngrams.bits_per_byte(train_part, val_part)
    end = metrics(tmp_path / "run")[-1]
    assert end["counting_bits_per_byte"] == pytest.approx(counted)
    assert (
        f"counting 5-grams of bytes: {end['counting_loss']:.3f} nats per token, {counted:.3f} bits per byte; counting is "
        in (capsys.readouterr().out)
    )
    monkeypatch.setattr(ngrams, "bits_per_byte", lambda *_: 9.0)
    assert train.main(argv) == 0
    assert "9.000 bits per byte; the model is better" in capsys.readouterr().out
    monkeypatch.setattr(train, "COUNTED", len(text.encode()) - 1)
    assert train.main(argv) == 0
    assert "counting" not in capsys.readouterr().out and "counting_loss" not in metrics(tmp_path / "run")[-1]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("moment", ["prepare", "score"])
def test_sigterm_outside_the_steps_is_answered_too(tmp_path, monkeypatch, capsys, moment):
    """While the text is prepared the command ends at once; while the last validation runs it is saved first."""
    calls, original = [], getattr(train, moment)

    def terminated(*arguments):
        calls.append(moment)
        if moment == "prepare" or len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(train, moment, terminated)
    assert train.main(["--preset", "debug", "--run", str(tmp_path / "run"), "-q"]) == 143
    assert (tmp_path / "run" / "checkpoints" / "step-000020").exists() == (moment == "score")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_nothing_is_printed_when_quiet(tmp_path, capsys):
    trained(tmp_path, "--steps", "5")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--preset", "big"], "--preset big is not one of shakespeare, debug"),
        (["--n-layers", "2"], "there is no flag --n-layers (perhaps --n-layer is meant)"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--n-head", "5"], "--n-head 5 does not divide --n-embd 32"),
        (["--tokens-per-step", "500"], "--tokens-per-step 500 is not a multiple of a micro-batch of 4 x 32"),
        (
            ["--data", "no/such/file.txt"],
            "--data no/such/file.txt is not there; give shakespeare, tinyshakespeare, the path of a UTF-8 text file, or",
        ),
        (["--data", "tests"], "tests holds neither manifest.json nor shards with train or val in their names"),
        (["--vocab-size", "100"], "--vocab-size: a vocabulary of 100 is too small"),
        (
            ["--block-size", "1000000", "--tokens-per-step", "4000000"],
            "--block-size is too long for tinyshakespeare: 52",
        ),
        (["--device", "cuda"], "--device cuda is not there"),
        (["--device", "gpu"], "--device gpu is not there"),
        (["--preset"], "argument --preset: expected one argument"),
        (
            ["--block-size", "10000000", "--tokens-per-step", "40000000"],
            "--block-size 10000000 is too long for tinyshakespeare",
        ),
        (["--vocab-size", "1000000000000"], "a model of 32,000,000,026,496 parameters with --batch-size 4 does not fit here"),
    ],
)
def test_wrong_use_gets_one_sentence_and_leaves_nothing(tmp_path, capsys, monkeypatch, flags, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "run"
    assert train.main(["--preset", "debug", "--run", str(folder), "-q", *flags]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {said}") and err.count("\n") == 1 and out == ""
    assert not folder.exists()


def test_a_text_that_is_not_utf8_is_refused_with_the_offset(tmp_path, capsys):
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    assert train.main(["--preset", "debug", "--run", str(tmp_path / "run"), "--data", str(tmp_path / "latin.txt")]) == 2
    assert "is not UTF-8: byte 0xef at offset 2;" in capsys.readouterr().err


def test_a_run_is_replaced_only_when_asked(finished_run, tmp_path, capsys):
    folder = trained(tmp_path, "--steps", "5")
    kept = content(folder)
    argv = ["--preset", "debug", "--run", str(folder), "-q"]
    assert train.main(argv) == 2
    assert (
        "already holds a run; go on with it by --resume, name another folder with --run, or give --overwrite"
        in capsys.readouterr().err
    )
    assert train.main([*argv, "--overwrite", "--n-head", "5"]) == 2  # refused before anything is removed
    assert content(folder) == kept
    assert train.main([*argv, "--overwrite", "--steps", "6"]) == 0
    assert [r["step"] for r in metrics(folder) if "loss" in r] == [1, 2, 3, 4, 5, 6]


def test_a_folder_of_other_files_is_refused_even_when_overwriting(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert train.main(["--preset", "debug", "--run", str(tmp_path), "-q", "--overwrite"]) == 2
    assert "holds files that are not a run's" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')  # somebody else's model
    assert train.main(["--preset", "debug", "--run", str(tmp_path), "-q", "--overwrite"]) == 2
    assert "holds files that are not a run's" in capsys.readouterr().err


def test_a_file_in_the_folders_place_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    for run in (tmp_path / "file", tmp_path / "file" / "run"):
        assert train.main(["--preset", "debug", "--run", str(run), "-q"]) == 2
        assert re.match(
            r"error: (--run .* cannot be a run's folder|cannot write into the folder .*): Not a dir", capsys.readouterr().err
        )


@pytest.mark.parametrize(
    ("eval_every", "said"), [("1", "validation loss nan after step 1:"), ("10", "loss nan, .* at step [23]:")]
)
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_weights(tmp_path, capsys, eval_every, said):
    folder = tmp_path / "run"
    assert train.main(["--preset", "debug", "--run", str(folder), "-q", "--lr", "1e30", "--eval-every", eval_every]) == 1
    assert re.fullmatch(
        rf"error: {said} the run stops, the last checkpoint is {folder}/checkpoints/step-00000.; .*\n", capsys.readouterr().err
    )
    assert all(torch.isfinite(tensor).all() for tensor in weights(folder).values())
    assert import_module("04_gpt2.generate").main(["--checkpoint", str(folder), "--max-new-tokens", "3"]) == 0


def test_ctrl_c_finishes_the_step_and_saves(tmp_path):
    folder = tmp_path / "run"
    flags = ["--preset", "debug", "--run", str(folder), "--steps", "100000"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command(*flags), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        deadline = time.monotonic() + 60
        while not (folder / "metrics.jsonl").exists() or '"loss"' not in (folder / "metrics.jsonl").read_text():
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 130 and err == "\nfinishing this step; Ctrl-C again stops at once\n"
    assert (folder / "loss.png").exists()
    last = metrics(folder)[-1]["step"]
    assert f"stopped after step {last} and saved; the same command with --resume goes on from there\n" in out
    assert import_module("04_gpt2.generate").main(["--checkpoint", str(folder), "--max-new-tokens", "3"]) == 0


def test_the_module_runs_as_a_command_and_its_help_names_every_field():
    shown = subprocess.run(command("--help"), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in [*config.TrainConfig.__dataclass_fields__, *config.GPTConfig.__dataclass_fields__]:
        assert name == "model" or f"--{name.replace('_', '-')}" in shown
    assert shown.count("(default:") == len(config.TrainConfig.__dataclass_fields__) + 5
    wrong = subprocess.run(command("--n-head", "3"), cwd=ROOT, capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (2, "") and wrong.stderr.count("\n") == 1
