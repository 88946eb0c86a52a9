"""What is saved comes back, and what is damaged, missing or foreign is refused by name."""

import json
import pickle
import shutil
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from shared.cli import RunError, UsageError

checkpoint = import_module("04_gpt2.checkpoint")
config = import_module("04_gpt2.config")
model = import_module("04_gpt2.model")

CPU = torch.device("cpu")


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(finished_run, tmp_path / "run")


def test_a_saved_model_comes_back_with_its_tokenizer_and_configuration(run):
    torch.manual_seed(7)
    gpt = model.GPT(config.PRESETS["debug"].model)
    checkpoint.save_weights(run, gpt, 123)
    loaded, tokenizer = checkpoint.load(run, CPU)
    assert loaded.config == gpt.config
    assert tokenizer.vocab_size == 512 and not loaded.training
    for name, tensor in gpt.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    with safe_open(run / "model.safetensors", "pt") as file:
        assert file.metadata()["step"] == "123" and "lm_head.weight" not in file.keys()  # noqa: SIM118
    assert sorted(path.name for path in run.glob("model*")) == ["model.safetensors"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(UsageError, match=f"is not the folder of a run with saved weights: it has no {name}"):
        checkpoint.load(run, CPU)


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, -1])
def test_truncated_weights_are_refused(run, keep):
    whole = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(whole[:keep])
    with pytest.raises(UsageError, match=r"model\.safetensors is damaged"):
        checkpoint.load(run, CPU)


def test_a_pickle_in_place_of_weights_is_refused_and_not_executed(run):
    class Bomb:
        def __reduce__(self):
            return (open, (str(run / "executed"), "w"))

    (run / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UsageError, match=r"model\.safetensors is damaged"):
        checkpoint.load(run, CPU)
    assert not (run / "executed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("transformer.h.1.mlp.c_fc.bias"), r"h\.1\.mlp\.c_fc\.bias has shape none in the one and \(128,\)"),
        (lambda t: t.update(stranger=torch.zeros(2, 3)), r"stranger has shape \(2, 3\) in the one and none in the other"),
        (lambda t: t.update({"transformer.ln_f.bias": torch.zeros(5)}), r"ln_f\.bias has shape \(5,\) in the one and \(32,\)"),
    ],
)
def test_weights_of_another_model_are_refused_by_tensor(run, change, message):
    tensors = load_file(run / "model.safetensors")
    change(tensors)
    save_file(tensors, run / "model.safetensors")
    with pytest.raises(UsageError, match=message):
        checkpoint.load(run, CPU)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"n_layer": 0}}', '{"model": 3}'])
def test_a_configuration_that_is_none_is_refused(run, content):
    (run / "config.json").write_text(content)
    with pytest.raises(UsageError, match=r"config\.json is not the configuration of a run"):
        checkpoint.load(run, CPU)


@pytest.mark.parametrize("change", [{"special_tokens": []}, {"merges": ["t h"] * 600}])
def test_a_tokenizer_of_another_model_is_refused(run, change):
    content = json.loads((run / "tokenizer.json").read_text(encoding="utf-8"))
    (run / "tokenizer.json").write_text(json.dumps(content | change), encoding="utf-8")
    with pytest.raises(UsageError, match=r"tokenizer\.json does not fit .*: <\|endoftext\|> and at most 512 ids are expected"):
        checkpoint.load(run, CPU)


def test_weights_that_are_not_finite_are_not_saved(run):
    gpt, _ = checkpoint.load(run, CPU)
    before = (run / "model.safetensors").read_bytes()
    gpt.transformer.wpe.weight.data[3, 5] = float("nan")
    with pytest.raises(RunError, match="the weights after step 7 are not finite and not saved"):
        checkpoint.save_weights(run, gpt, 7)
    assert (run / "model.safetensors").read_bytes() == before


def test_a_save_that_is_cut_off_leaves_the_file_before_it_whole(run, monkeypatch):
    """The new file takes the old one's place in one move: where that move fails, the old one is untouched."""
    gpt, _ = checkpoint.load(run, CPU)
    before = (run / "model.safetensors").read_bytes()

    def fail(*_):
        raise OSError("cut off")

    monkeypatch.setattr(type(run), "replace", fail)
    torch.nn.init.ones_(gpt.transformer.wpe.weight)
    with pytest.raises(RunError, match="could not be saved: cut off"):
        checkpoint.save_weights(run, gpt, 7)
    assert (run / "model.safetensors").read_bytes() == before


def test_weights_that_cannot_be_written_leave_those_before_them_whole(run):
    """The child process may write no file beyond 64 KiB: to it the disk is full."""
    program = (
        "import resource, signal, sys, torch; from importlib import import_module; from pathlib import Path;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16));"
        "checkpoint = import_module('04_gpt2.checkpoint'); run = Path(sys.argv[1]);"
        "model, _ = checkpoint.load(run, torch.device('cpu'));"
        "checkpoint.save_weights(run, model, 99)"
    )
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    done = subprocess.run([sys.executable, "-c", program, str(run)], capture_output=True, text=True)
    assert done.returncode != 0 and "RunError: the weights after step 99 could not be saved" in done.stderr
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
