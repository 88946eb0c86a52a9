"""The training command on a folder of token shards: its arithmetic, going on after a kill, and what damaged shards get."""

import json
import math
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from importlib import import_module
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from shared import corpora

from .runs import assert_same_run, metrics

checkpoint = import_module("04_gpt2.checkpoint")
config = import_module("04_gpt2.config")
data = import_module("04_gpt2.token_data")
evaluate = import_module("04_gpt2.evaluate")
generate = import_module("04_gpt2.generate")
model = import_module("04_gpt2.model")
train = import_module("04_gpt2.train")
Order = import_module("04_gpt2.loader").Order
prepare_shards = import_module("04_gpt2.data").main

ROOT = Path(__file__).parents[2]
DEBUG = config.PRESETS["debug"]
ROWS = DEBUG.tokens_per_step // DEBUG.model.block_size  # windows in an update
ORDERS = ("windows", "shards")


@pytest.fixture(scope="module")
def shards(tmp_path_factory, finished_run):
    """A play as shards of 5,000 tokens, with the tokenizer of a run, whose 512 ids the debug preset has room for."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "play.txt").write_text(corpora.plays()["the-tempest"], encoding="utf-8")
    prepared(folder / "play.txt", folder / "shards", finished_run)
    return folder / "shards"


def prepared(source, folder, tokenizer, *flags):
    flags = ["--source", str(source), "--to", str(folder), "--tokenizer", str(tokenizer), "-q", *flags]
    assert prepare_shards([*flags, "--shard-tokens", "5000", "--val-share", "0.1", "--workers", "1"]) == 0


def flags(shards, run, *others):
    return ["--preset", "debug", "--data", str(shards), "--run", str(run), "--device", "cpu", *others]


def tokens_of(shards, split):
    """All tokens of a split, and where its shards end, read by plain NumPy."""
    parts = [np.fromfile(path, "<u2")[512:] for path in sorted(shards.glob(f"{split}_*.bin"))]
    return np.concatenate(parts), list(accumulate(map(len, parts)))


def starts(shards, order, n_windows):
    """Where the first windows of a debug run begin."""
    tokens, ends = tokens_of(shards, "train")
    whole = Order(len(tokens), DEBUG.model.block_size, DEBUG.seed, ends if order == "shards" else ())
    return list(whole.starts(0, n_windows))


def losses(folder):
    return [record["loss"] for record in metrics(folder) if "loss" in record]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_learns_from_shards_and_writes(shards, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train.main(flags(shards, folder)) == 0
    said = capsys.readouterr().out
    n_train, n_val = (len(tokens_of(shards, split)[0]) - 1 for split in ("train", "val"))
    assert f"{shards}: token shards, 512 token ids, {n_train:,} tokens to learn from in " in said
    assert f" {n_val:,} to validate on" in said and f"all {n_val:,} validation tokens, the model: " in said
    assert "counting" not in said and "words" not in said  # for want of the text
    assert said.endswith(f"let it write: python -m 04_gpt2.generate --checkpoint {folder}\n")
    assert losses(folder)[-1] < losses(folder)[0] - 0.5
    end = metrics(folder)[-1]
    assert train.opening(data.open_folder(shards, 512)) == [511]  # <|endoftext|>
    assert end.keys() == {"step", "whole_val_loss", "whole_val_bits_per_byte"}
    last = checkpoint.checkpoints(folder)[-1]
    assert (last / "tokenizer.json").read_bytes() == (shards / "tokenizer.json").read_bytes()
    assert json.loads((last / "state.json").read_text())["notes"]["loader"]["windows"] == DEBUG.steps * ROWS
    assert generate.main(["--checkpoint", str(folder), "--max-new-tokens", "5", "--prompt", "ARIEL:"]) == 0
    assert capsys.readouterr().out.startswith("ARIEL:")


@pytest.mark.parametrize("order", ORDERS)
def test_the_system_reads_ahead_where_shard_is_read_after_shard(shards, tmp_path, monkeypatch, order, capsys):
    asked, open_data = [], train.open_data
    monkeypatch.setattr(
        train, "open_data", lambda *what, read_ahead: asked.append(read_ahead) or open_data("nowhere", *what[1:])
    )
    assert train.main(flags(shards, tmp_path / "run", "--order", order)) == 2
    assert asked == [order == "shards"] and "nowhere is not there" in capsys.readouterr().err


@pytest.mark.parametrize("order", ORDERS)
def test_the_losses_are_those_of_a_plain_loop_over_the_same_windows(shards, tmp_path, order):
    """Tokens from the files by NumPy, the update written out here."""
    steps = ["--steps", "6", "--warmup-steps", "0", "--min-lr", str(DEBUG.lr), "--eval-every", "3", "--weight-decay", "0"]
    assert train.main(flags(shards, tmp_path / "run", "-q", "--order", order, *steps)) == 0
    tokens = torch.from_numpy(tokens_of(shards, "train")[0].astype("int64"))
    held_out = torch.from_numpy(tokens_of(shards, "val")[0][:2049].astype("int64"))
    torch.manual_seed(DEBUG.seed)
    gpt = model.GPT(DEBUG.model)
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=DEBUG.lr, betas=(0.9, 0.95), weight_decay=0)
    expected, validations, following = [], [], iter(starts(shards, order, 6 * ROWS))
    for step in range(7):
        if step % 3 == 0:
            with torch.no_grad():
                logits = gpt(held_out[:-1].view(-1, 32))
            validations.append(F.cross_entropy(logits.flatten(0, 1), held_out[1:]).item())
        if step == 6:
            break
        windows = torch.stack([tokens[start : start + 33] for start in islice(following, ROWS)])
        loss = F.cross_entropy(gpt(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        expected.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=1e-4)
    found = [record["val_loss"] for record in metrics(tmp_path / "run") if "val_loss" in record]
    assert found == pytest.approx(validations, rel=1e-4)


def test_the_two_orders_are_two_runs(shards):
    assert starts(shards, "windows", 4 * ROWS) != starts(shards, "shards", 4 * ROWS)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("order", ORDERS)
def test_a_run_that_is_killed_goes_on_to_the_bit(shards, tmp_path, order):
    """Killed at a random moment of its first epoch; it ends in the second."""
    steps, rows = 48, 32
    assert len(tokens_of(shards, "train")[0]) < steps * rows * DEBUG.model.block_size
    settings = ["--order", order, "--steps", str(steps), "--tokens-per-step", str(rows * DEBUG.model.block_size)]
    settings += ["--eval-every", "12", "--eval-tokens", "64", "--dropout", "0.2"]
    assert train.main(flags(shards, tmp_path / "whole", "-q", *settings)) == 0
    stopped = flags(shards, tmp_path / "stopped", "--resume", *settings)
    after = random.randrange(2, steps // 2)
    command = [sys.executable, "-u", "-m", "04_gpt2.train", *stopped]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if (told := re.match(r"step (\d+)/", line)) and int(told[1]) >= after:
                break
        time.sleep(random.random() / 20)
        process.kill()
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL, after
    assert train.main([*stopped, "-q"]) == 0, after
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


OTHERS = ["-q", "--steps", "8", "--eval-every", "4"]


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """A run of 8 steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train.main(flags(shards, folder, *OTHERS)) == 0
    return folder


@pytest.fixture
def stopped(whole, tmp_path):
    """The same run, with nothing saved after the first 4."""
    folder = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "step-000008")
    return folder


def test_a_run_goes_on_with_shards_that_were_moved(shards, tmp_path, stopped, whole):
    moved = shutil.copytree(shards, tmp_path / "moved")
    assert train.main(flags(moved, stopped, "--resume", *OTHERS)) == 0
    assert_same_run(stopped, whole)


def test_other_tokens_are_refused_when_a_run_goes_on(shards, tmp_path, stopped, finished_run, capsys):
    """A word of the play is another, and all shards keep their number."""
    text = corpora.plays()["the-tempest"]
    (tmp_path / "play.txt").write_text(text.replace("brave new world", "brave old world"), encoding="utf-8")
    prepared(tmp_path / "play.txt", tmp_path / "other", finished_run)
    names = [sorted(path.name for path in place.iterdir()) for place in (shards, tmp_path / "other")]
    assert names[0] == names[1]
    before = content(stopped)
    assert train.main(flags(tmp_path / "other", stopped, "--resume", *OTHERS)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {stopped}/checkpoints/step-000004 was trained on other tokens: ") and said.count("\n") == 1
    assert content(stopped) == before


def test_another_order_is_refused_when_a_run_goes_on(shards, stopped, capsys):
    before = content(stopped)
    assert train.main(flags(shards, stopped, "--resume", "--order", "shards", *OTHERS)) == 2
    assert capsys.readouterr().err == (
        f"error: {stopped} holds a run with other settings: order was windows and is shards; "
        f"give its settings, or another --run\n"
    )
    assert content(stopped) == before


def test_the_score_of_shards_is_that_of_the_same_tokens_as_an_array(shards):
    opened = data.open_folder(shards, 512)
    gpt = model.GPT(DEBUG.model)
    for split, most_scored in (("train", (7_500,)), ("val", (None, random.randrange(1, 2000), 10**9))):
        tokens = tokens_of(shards, split)[0]
        for most in most_scored:
            found = evaluate.score(gpt, getattr(opened, split), opened.tokenizer, most)
            assert found == evaluate.score(gpt, tokens, opened.tokenizer, most)
            assert found.n_tokens == min(len(tokens) - 1, most or math.inf)


def test_a_vocabulary_without_room_for_the_shards_ids_leaves_nothing(shards, tmp_path, capsys):
    assert train.main(flags(shards, tmp_path / "run", "--vocab-size", "511")) == 2
    assert capsys.readouterr() == ("", f"error: --vocab-size 511 has no room for the 512 ids of {shards}\n")
    assert not (tmp_path / "run").exists()


def test_a_context_longer_than_the_shards_leaves_nothing(shards, tmp_path, capsys):
    n_tokens, shape = len(tokens_of(shards, "train")[0]), ["--block-size", "60000", "--tokens-per-step", "240000", "-q"]
    assert train.main(flags(shards, tmp_path / "run", *shape)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --block-size is too long for {shards}: {n_tokens} tokens do not hold one window of 60000 ")
    assert said.endswith(f"; give at most {n_tokens - 1}\n") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_id_beyond_the_vocabulary_stops_the_run_with_its_last_checkpoint_kept(shards, tmp_path, capsys):
    """A token that is read after step 10 and not before; put right, the run goes on as if nothing had happened."""
    order = random.choice(ORDERS)
    damaged, others = shutil.copytree(shards, tmp_path / "shards"), ["-q", "--order", order]
    assert train.main(flags(damaged, tmp_path / "whole", *others)) == 0
    windows = starts(shards, order, 20 * ROWS)
    read = {start + i for start in windows[: 10 * ROWS] for i in range(33)}
    place = random.choice([start + 9 for start in windows[12 * ROWS :] if start + 9 not in read])
    ends = tokens_of(shards, "train")[1]
    index = int(np.searchsorted(ends, place, side="right"))
    path = damaged / f"train_{index:06}.bin"
    with path.open("r+b") as file:
        file.seek(1024 + 2 * (place - [0, *ends][index]))
        file.write(struct.pack("<H", 999))
    folder = tmp_path / "run"
    assert train.main(flags(damaged, folder, *others)) == 2
    assert capsys.readouterr().err == (
        f"error: {path} holds the id 999, beyond the 512 ids of its tokenizer; fetch or prepare it again\n"
    )
    assert [path.name for path in checkpoint.checkpoints(folder)] == ["step-000000", "step-000010"]
    assert generate.main(["--checkpoint", str(folder), "--max-new-tokens", "3"]) == 0
    shutil.copy(shards / path.name, path)
    assert train.main(flags(damaged, folder, "--resume", *others)) == 0
    assert_same_run(folder, tmp_path / "whole")
