"""A run that is stopped by whatever means, at whatever moment, and continued ends as if nothing had happened."""

import json
import os
import random
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

from .runs import assert_same_run, metrics

checkpoint = import_module("04_gpt2.checkpoint")
train = import_module("04_gpt2.train")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{n} times {n + 1} is {n * (n + 1)}.\n" for n in range(2000)))
    return path


@pytest.fixture(scope="module")
def short(text):
    """The flags of a run that ends in a second."""
    flags = ["--preset", "debug", "--data", str(text), "--vocab-size", "300", "--steps", "12", "--eval-every", "4"]
    return [*flags, "--device", "cpu", "--keep", "9"]


@pytest.fixture
def stopped(tmp_path, short):
    """A short run that had saved after 0, 4 and 8 of its 12 steps when something stopped it."""
    folder = tmp_path / "stopped"
    assert train.main([*short, "--run", str(folder), "-q"]) == 0
    shutil.rmtree(folder / "checkpoints" / "step-000012")
    return folder


def run_until_stopped(folder, flags, by, after):
    """Start the command, send the signal `by` a random moment after its step `after` -> its exit status and what it said."""
    command = [sys.executable, "-u", "-m", "04_gpt2.train", *flags, "--run", str(folder), "--resume"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if (told := re.match(r"step (\d+)/", line)) and int(told[1]) >= after:
                break
        time.sleep(random.random() / 20)
        process.send_signal(by)
        out, err = process.stdout.read(), process.stderr.read()
    return process.returncode, out, err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("steps", "eval_every", "optimizer"),
    [(36, 1, "adamw"), (150, 50, "muon")],
    ids=["saving at every step", "saving seldom, muon"],
)
def test_a_run_that_is_killed_at_random_moments_ends_like_one_that_never_stopped(tmp_path, text, steps, eval_every, optimizer):
    """The first kill comes before the second checkpoint; the moments leave room for a machine many times as fast."""
    flags = ["--preset", "debug", "--data", str(text), "--vocab-size", "300", "--dropout", "0.2", "--eval-tokens", "64"]
    flags += ["--steps", str(steps), "--eval-every", str(eval_every), "--device", "cpu", "--optimizer", optimizer]
    assert train.main([*flags, "--run", str(tmp_path / "whole"), "-q"]) == 0
    folder = tmp_path / "stopped"
    signals = [signal.SIGKILL, random.choice([signal.SIGTERM, signal.SIGINT]), signal.SIGKILL]
    moments = [1, *sorted(random.sample(range(2, steps // 3), 2))]
    for by, after in zip(signals, moments, strict=True):
        status, out, err = run_until_stopped(folder, flags, by, after)
        assert status == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[by], (signals, moments, err)
        if by != signal.SIGKILL:
            assert "finishing this step" in err and "saved; the same command with --resume goes on from there" in out
            step = metrics(folder)[-1]["step"]
            assert checkpoint.checkpoints(folder)[-1].name == f"step-{step:06}" and step >= after
            assert (folder / "loss.png").exists()
    assert train.main([*flags, "--run", str(folder), "-q", "--resume"]) == 0, (signals, moments)
    assert_same_run(folder, tmp_path / "whole")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_run_on_cuda_goes_on_to_the_bit_with_deterministic_kernels(tmp_path, short):
    flags = [*short, "--device", "cuda", "--deterministic", "--dropout", "0.2", "-q"]
    for folder in ("whole", "stopped"):
        assert train.main([*flags, "--run", str(tmp_path / folder)]) == 0
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "step-000012")
    assert train.main([*flags, "--run", str(tmp_path / "stopped"), "--resume"]) == 0
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("left", ["step-000000", "step-000004", "step-000008"])
def test_a_run_goes_on_from_any_checkpoint(tmp_path, short, stopped, left):
    whole = shutil.copytree(stopped, tmp_path / "whole")
    assert train.main([*short, "--run", str(whole), "-q", "--resume"]) == 0
    for path in (stopped / "checkpoints").iterdir():
        if path.name > left:
            shutil.rmtree(path)
    assert train.main([*short, "--run", str(stopped), "-q", "--resume"]) == 0
    assert_same_run(stopped, whole)


def test_resume_begins_a_run_where_there_is_none(finished_run, tmp_path, capsys):
    for folder in (tmp_path / "new", tmp_path / "left by a kill before the first checkpoint"):
        if "left" in folder.name:
            (folder / "checkpoints" / "step-000000.partial").mkdir(parents=True)
            (folder / "metrics.jsonl").write_text('{"step": 0, "val_lo')
        assert train.main(["--preset", "debug", "--run", str(folder), "--resume"]) == 0
        assert "going on" not in capsys.readouterr().out
        assert_same_run(folder, finished_run)


def test_a_resumed_run_says_where_it_goes_on_and_clears_what_was_cut_off(stopped, short, capsys):
    (stopped / "checkpoints" / "step-000012.partial").mkdir()
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "los')
    assert train.main([*short, "--run", str(stopped), "--resume"]) == 0
    out = capsys.readouterr().out
    assert "12 steps of 512 tokens, going on after step 8, about " in out and "step 9/12: " in out and "step 8/12" not in out
    assert sorted(path.name for path in (stopped / "checkpoints").iterdir()) == [f"step-{step:06}" for step in (0, 4, 8, 12)]
    whole = stopped.with_name("whole")
    assert train.main([*short, "--run", str(whole), "-q"]) == 0
    assert_same_run(stopped, whole)


def test_resuming_a_finished_run_only_repeats_its_result(finished_run, tmp_path, capsys):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    assert train.main(["--preset", "debug", "--run", str(folder), "--resume"]) == 0
    assert "step 20/20" not in (out := capsys.readouterr().out) and "validation tokens, the model" in out
    assert_same_run(folder, finished_run)


@pytest.mark.parametrize("flags", [["--keep", "1"], ["--compile", "off"], ["--deterministic"], ["--dtype", "auto"]])
def test_what_does_not_change_the_run_may_change_when_it_goes_on(stopped, short, flags):
    assert train.main([*short, "--run", str(stopped), "-q", "--resume", *flags]) == 0


def test_a_run_with_other_settings_is_refused_with_the_fields_named(stopped, short, capsys):
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    flags = ["--lr", "0.005", "--n-layer", "3", "--dtype", "bfloat16"]
    assert train.main([*short, "--run", str(stopped), "--resume", *flags]) == 2
    assert capsys.readouterr().err == (
        f"error: {stopped} holds a run with other settings: lr was 0.004 and is 0.005, dtype was float32 and is bfloat16, "
        f"n_layer was 2 and is 3; give its settings, or another --run\n"
    )
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before


def test_a_run_that_was_moved_goes_on_with_a_text_that_was_moved(tmp_path, stopped, short, text, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    stopped.rename(tmp_path / "elsewhere" / "run")
    shutil.copy(text, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train.main([*short, "--run", "run", "-q", "--resume", "--data", "text.txt"]) == 0
    assert checkpoint.checkpoints(Path("run"))[-1].name == "step-000012"


def test_a_text_that_has_changed_is_refused(tmp_path, text, short, capsys):
    (tmp_path / "text.txt").write_bytes(text.read_bytes())
    flags = [*short, "--data", str(tmp_path / "text.txt"), "--run", str(tmp_path / "run"), "-q"]
    assert train.main(flags) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    (tmp_path / "text.txt").write_bytes(text.read_bytes().replace(b"9", b"8", 1))
    assert train.main([*flags, "--resume"]) == 2
    assert (
        "step-000012 was trained on other tokens: the text, its shards or the way it is cut has changed"
        in capsys.readouterr().err
    )
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_goes_on(stopped, short, capsys):
    weights = stopped / "checkpoints" / "step-000008" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert train.main([*short, "--run", str(stopped), "-q", "--resume"]) == 2
    assert f"error: {weights} was cut off or altered" in (said := capsys.readouterr().err)
    assert f"remove {weights.parent} to go back to step-000004\n" in said
    shutil.rmtree(weights.parent)
    assert train.main([*short, "--run", str(stopped), "-q", "--resume"]) == 0


def test_a_log_without_checkpoints_is_not_taken_for_a_new_run(stopped, short, capsys):
    shutil.rmtree(stopped / "checkpoints")
    before = {path: path.read_bytes() for path in stopped.iterdir()}
    assert train.main([*short, "--run", str(stopped), "-q", "--resume"]) == 2
    assert f"{stopped} holds the log of a run but no checkpoint to go on from; bring" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in stopped.iterdir()} == before


def test_strange_files_do_not_keep_a_run_from_going_on_and_stay(tmp_path, stopped, short, capsys):
    """A scheduler writes its log there, a file browser its own file."""
    (tmp_path / "new").mkdir()
    for folder in (stopped, tmp_path / "new"):
        (folder / "job-77.log").write_text("kept")
        assert train.main([*short, "--run", str(folder), "-q", "--resume"]) == 0
        assert (folder / "job-77.log").read_text() == "kept"
    assert train.main([*short, "--run", str(stopped), "-q", "--overwrite"]) == 2
    assert "holds files that are not a run's" in capsys.readouterr().err
    (tmp_path / "theirs" / "checkpoints").mkdir(parents=True)
    (tmp_path / "theirs" / "checkpoints" / "best.pt").write_text("kept")
    assert train.main([*short, "--run", str(tmp_path / "theirs"), "-q", "--resume"]) == 0
    assert (tmp_path / "theirs" / "checkpoints" / "best.pt").read_text() == "kept"


@pytest.mark.parametrize("flag", ["--resume", "-q"])
def test_a_folder_that_another_process_takes_during_the_set_up_is_left_to_it(
    stopped, short, tmp_path, monkeypatch, flag, capsys
):
    """Between the first look into the folder and the moment of the lock, minutes may pass."""
    folder, prepare = tmp_path / "run", train.prepare

    def meanwhile(*arguments):
        shutil.copytree(stopped, folder)
        return prepare(*arguments)

    monkeypatch.setattr(train, "prepare", meanwhile)
    assert train.main([*short, "--run", str(folder), flag]) == 2
    assert re.search("another process has trained in .* meanwhile|already holds a run", capsys.readouterr().err)
    files = {path.relative_to(stopped): path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files


def test_logs_that_somebody_removed_do_not_matter(stopped, short):
    (stopped / "samples.txt").unlink()
    (stopped / "metrics.jsonl").unlink()
    assert train.main([*short, "--run", str(stopped), "-q", "--resume"]) == 0
    assert metrics(stopped)[0]["step"] == 9


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_reader_of_the_output_that_leaves_ends_the_run_with_all_saved(tmp_path, text):
    """As `python -m 04_gpt2.train | head -3` does, and Ctrl-C that ends `tee` too."""
    flags = [
        "--preset",
        "debug",
        "--data",
        str(text),
        "--steps",
        "3000",
        "--vocab-size",
        "300",
        "--run",
        str(tmp_path / "run"),
    ]
    command = [sys.executable, "-m", "04_gpt2.train", *flags, "--eval-every", "1000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not process.stdout.readline().startswith("step 1/"):
            pass
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 141)
    assert checkpoint.checkpoints(tmp_path / "run")[-1].name == f"step-{metrics(tmp_path / 'run')[-1]['step']:06}"


def test_resume_and_overwrite_exclude_each_other(tmp_path, short, capsys):
    assert train.main([*short, "--run", str(tmp_path / "run"), "--resume", "--overwrite"]) == 2
    assert capsys.readouterr().err.startswith("error: --resume cannot be given with --overwrite: ")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")
def test_two_processes_do_not_train_in_one_folder(stopped, short, capsys):
    import fcntl

    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    with (stopped / "metrics.jsonl").open() as held_by_another:
        fcntl.flock(held_by_another, fcntl.LOCK_EX)
        for flag in ("--resume", "--overwrite"):
            assert train.main([*short, "--run", str(stopped), "-q", flag]) == 2
            assert f"another process is training in {stopped}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before
    assert train.main([*short, "--run", str(stopped), "-q", "--resume"]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_FSIZE")
def test_a_disk_that_fills_up_while_logging_stops_the_run_with_one_sentence_and_loses_nothing(stopped, short, capsys):
    """The system cuts the line of step 10 in two."""
    import resource

    size, before = (stopped / "metrics.jsonl").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = shutil.copytree(stopped, stopped.with_name("whole"))
    noted = json.loads((stopped / "checkpoints" / "step-000008" / "state.json").read_text())["notes"]["log_sizes"][
        "metrics.jsonl"
    ]
    assert train.main([*short, "--run", str(whole), "-q", "--resume"]) == 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (noted + 200, before[1]))
    try:
        os.truncate(stopped / "metrics.jsonl", noted)
        assert train.main([*short, "--run", str(stopped), "-q", "--resume"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert size > noted + 200 == (stopped / "metrics.jsonl").stat().st_size
    last = stopped / "checkpoints" / "step-000008"
    assert capsys.readouterr().err == (
        f"error: {stopped / 'metrics.jsonl'} cannot be written: File too large; the last checkpoint is {last}; "
        f"when that is put right, --resume goes on\n"
    )
    assert train.main([*short, "--run", str(stopped), "-q", "--resume"]) == 0
    assert_same_run(stopped, whole)
