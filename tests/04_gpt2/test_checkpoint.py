"""What is saved comes back to the bit, and what is damaged, missing or foreign is refused by name."""

import json
import pickle
import random
import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from shared.cli import RunError, UsageError

from .runs import no_file_beyond

checkpoint = import_module("04_gpt2.checkpoint")
config = import_module("04_gpt2.config")
data = import_module("04_gpt2.token_data")
model = import_module("04_gpt2.model")
optim = import_module("04_gpt2.optim")
sealed = import_module("04_gpt2.sealed")

CPU = torch.device("cpu")
FILES = {*checkpoint.MODEL_FILES, *checkpoint.TRAINING_FILES}
SETTINGS = replace(
    config.PRESETS["debug"], model=config.GPTConfig(block_size=8, vocab_size=300, n_layer=1, n_head=2, n_embd=8, dropout=0.5)
)
DATA = data.prepare("to be or not to be, that is the question\n" * 20, "bpe", 300)


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of a finished run that a test may damage; its newest checkpoint is step-000020."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def newest(run):
    return run / "checkpoints" / "step-000020"


def reseal(folder):
    """Let an altered checkpoint pass for an unaltered one, as its maker could."""
    with sealed.sealed(folder.with_name("resealed")) as partial:
        for name in FILES:
            shutil.copy(folder / name, partial)
    shutil.rmtree(folder)
    folder.with_name("resealed").rename(folder)


def trained(seed, steps=3):
    """A model and its optimizer after a few updates on random tokens."""
    torch.manual_seed(seed)
    gpt = model.GPT(SETTINGS.model)
    optimizer = optim.make_optimizer(gpt, SETTINGS)
    update(gpt, optimizer, steps)
    return gpt, optimizer


def update(gpt, optimizer, steps):
    for _ in range(steps):
        idx = torch.randint(300, (2, 9))
        gpt(idx[:, :-1], idx[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()


def state_of(gpt, optimizer):
    """Every number that a further update depends on."""
    state = optimizer.state_dict()["state"]
    moments = [state[i][name] for i in sorted(state) for name in sorted(state[i])]
    return [*gpt.state_dict().values(), *moments, torch.get_rng_state()]


def test_training_goes_on_from_a_checkpoint_to_the_bit(tmp_path):
    """Dropout draws random numbers, AdamW remembers, so weights alone would not do."""
    settings = replace(SETTINGS, run=str(tmp_path))
    gpt, optimizer = trained(seed=random.randrange(2**31))
    checkpoint.save(settings, 3, gpt, optimizer, DATA, {"note": 7})
    update(gpt, optimizer, 4)
    expected = state_of(gpt, optimizer)
    other, other_optimizer = trained(seed=5, steps=1)
    folder = tmp_path / "checkpoints" / "step-000003"
    assert checkpoint.restore(folder, other, other_optimizer, DATA) == (3, {"note": 7})
    update(other, other_optimizer, 4)
    for restored, wanted in zip(state_of(other, other_optimizer), expected, strict=True):
        assert restored.dtype == wanted.dtype and torch.equal(restored, wanted)


def test_a_saved_model_comes_back_with_its_tokenizer_and_configuration(tmp_path):
    gpt, optimizer = trained(seed=7)
    checkpoint.save(replace(SETTINGS, run=str(tmp_path)), 123, gpt, optimizer, DATA, {})
    folder = tmp_path / "checkpoints" / "step-000123"
    for path in (tmp_path, folder):  # the newest of a run, or a certain one
        loaded, tokenizer = checkpoint.load(path, CPU)
        assert loaded.config == gpt.config and not loaded.training
        assert tokenizer.merges == DATA.tokenizer.merges
        for name, tensor in gpt.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert {path.name for path in folder.iterdir()} == FILES | {"SHA256SUMS"}
    with safe_open(folder / "optimizer.safetensors", "pt") as file:  # named as a reader would look for them
        assert {"transformer.wte.weight.exp_avg", "transformer.h.0.ln_1.bias.exp_avg_sq"} <= set(file.keys())
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # all are as readable as each other


def test_the_newest_checkpoints_are_kept(tmp_path):
    gpt, optimizer = trained(seed=7)
    for step in (8, 9, 10, 999_999, 1_000_000, 1_000_001):
        checkpoint.save(replace(SETTINGS, run=str(tmp_path), keep=2), step, gpt, optimizer, DATA, {})
        assert checkpoint.checkpoints(tmp_path)[-1].name == f"step-{step:06}"
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-1000000", "step-1000001"]


def test_every_altered_region_of_every_file_is_refused_by_name(tmp_path):
    """Any one bit of each 64 bytes, at a random place; test_sealed.py holds that single bytes are noticed."""
    gpt, optimizer = trained(seed=7)
    checkpoint.save(replace(SETTINGS, run=str(tmp_path)), 3, gpt, optimizer, DATA, {})
    folder = tmp_path / "checkpoints" / "step-000003"
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for start in range(0, len(whole), 64):
            altered = bytearray(whole)
            altered[min(start + random.randrange(64), len(whole) - 1)] ^= 1 << random.randrange(8)
            path.write_bytes(altered)
            with pytest.raises(
                UsageError, match=r"SHA256SUMS (is missing, cut off or altered|was cut off)|altered: its SHA-256"
            ):
                checkpoint.restore(folder, gpt, optimizer, DATA)
            if path.name in checkpoint.MODEL_FILES:
                with pytest.raises(UsageError, match=f"{path.name} was cut off or altered"):
                    checkpoint.load(tmp_path, CPU)
        path.write_bytes(whole)
    assert checkpoint.restore(folder, gpt, optimizer, DATA)[0] == 3


def test_the_way_out_is_found_from_within_the_folder(run, newest, monkeypatch):
    monkeypatch.chdir(newest.parent)
    (newest / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"config\.json was cut off or altered.* to go back to step-000010"):
        checkpoint.load("step-000020", CPU)


def test_an_old_checkpoint_that_cannot_be_removed_does_not_stop_the_run(tmp_path, monkeypatch):
    def fails(folder):
        raise PermissionError(13, "Permission denied")

    gpt, optimizer = trained(seed=7)
    settings = replace(SETTINGS, run=str(tmp_path), keep=1)
    for step in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "remove", fails)
            checkpoint.save(settings, step, gpt, optimizer, DATA, {})
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-000001", "step-000002"]
    checkpoint.save(settings, 3, gpt, optimizer, DATA, {})
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-000003"]


@pytest.mark.parametrize("name", sorted(FILES | {"SHA256SUMS"}))
def test_a_file_that_is_cut_off_or_missing_is_named_with_the_way_out(run, newest, name):
    gpt, _ = checkpoint.load(run, CPU)
    optimizer = optim.make_optimizer(gpt, config.PRESETS["debug"])
    whole = (newest / name).read_bytes()
    for keep in (0, 7, len(whole) // 2, len(whole) - 1):
        (newest / name).write_bytes(whole[:keep])
        with pytest.raises(UsageError, match=rf"{name} .*cut off.*; remove {newest} to go back to step-000010"):
            checkpoint.restore(newest, gpt, optimizer, DATA)
    (newest / name).unlink()
    with pytest.raises(UsageError, match=rf"{name} (is missing|cannot be read: No such file)"):
        checkpoint.restore(newest, gpt, optimizer, DATA)
    shutil.rmtree(newest)
    assert checkpoint.load(run, CPU)[0].config == gpt.config  # the way out works


def test_a_pickle_in_place_of_weights_is_refused_and_not_executed(run, newest):
    class Bomb:
        def __reduce__(self):
            return (open, (str(run / "executed"), "w"))

    (newest / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UsageError, match=r"model\.safetensors was cut off or altered"):
        checkpoint.load(run, CPU)
    reseal(newest)
    with pytest.raises(UsageError, match=r"model\.safetensors is not a safetensors file"):
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
def test_weights_of_another_model_are_refused_by_tensor(run, newest, change, message):
    tensors = load_file(newest / "model.safetensors")
    change(tensors)
    save_file(tensors, newest / "model.safetensors")
    reseal(newest)
    with pytest.raises(UsageError, match=message):
        checkpoint.load(run, CPU)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"n_layer": 0}}', '{"model": 3}'])
def test_a_configuration_that_is_none_is_refused(run, newest, content):
    (newest / "config.json").write_text(content)
    reseal(newest)
    with pytest.raises(UsageError, match=r"config\.json is not the configuration of a run"):
        checkpoint.load(run, CPU)


@pytest.mark.parametrize("change", [{"special_tokens": []}, {"merges": ["t h"] * 600}])
def test_a_tokenizer_of_another_model_is_refused(run, newest, change):
    content = json.loads((newest / "tokenizer.json").read_text(encoding="utf-8"))
    (newest / "tokenizer.json").write_text(json.dumps(content | change), encoding="utf-8")
    reseal(newest)
    with pytest.raises(UsageError, match=r"tokenizer\.json does not fit .*: <\|endoftext\|> and at most 512 ids are expected"):
        checkpoint.load(run, CPU)


def test_a_checkpoint_that_training_replaces_while_it_is_read_gives_way_to_the_newer_one(run, monkeypatch):
    older, newer = run / "checkpoints" / "step-000010", run / "checkpoints" / "step-000020"
    moved = newer.rename(run / "newer")
    original = checkpoint.verify

    def replaced_meanwhile(folder, names):
        if older.exists():
            moved.rename(newer)
            shutil.rmtree(older)
        original(folder, names)

    monkeypatch.setattr(checkpoint, "verify", replaced_meanwhile)
    assert torch.equal(
        checkpoint.load(run, CPU)[0].lm_head.weight, load_file(newer / "model.safetensors")["transformer.wte.weight"]
    )


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere is not there; python -m 04_gpt2\.train makes such a folder"):
        checkpoint.load(tmp_path / "nowhere", CPU)
    with pytest.raises(UsageError, match=r"test_checkpoint\.py is not the folder of a run or a checkpoint: it is a file"):
        checkpoint.load(__file__, CPU)
    with pytest.raises(UsageError, match=r"it has no checkpoints/step-\.\.\."):
        checkpoint.load(tmp_path, CPU)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    gpt, optimizer = trained(seed=7)
    settings = replace(SETTINGS, run=str(tmp_path))
    checkpoint.save(settings, 3, gpt, optimizer, DATA, {})
    gpt.transformer.wpe.weight.data[3, 5] = float("nan")
    with pytest.raises(RunError, match=r"weights after step 4 are not finite and not saved; the last .* is .*/step-000003"):
        checkpoint.save(settings, 4, gpt, optimizer, DATA, {})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000003"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_FSIZE")
@pytest.mark.parametrize("limit", [100, 170_000, 300_000])
def test_a_disk_that_is_full_while_saving_leaves_the_last_checkpoint_whole_and_says_so(tmp_path, monkeypatch, capsys, limit):
    """While the last checkpoint of a run is saved, the system refuses to write beyond `limit` bytes of a file."""
    folder, train, save = tmp_path / "run", import_module("04_gpt2.train"), checkpoint.save

    def save_on_a_full_disk(settings, step, *rest):
        with no_file_beyond(limit) if step == 20 else nullcontext():
            save(settings, step, *rest)

    monkeypatch.setattr(checkpoint, "save", save_on_a_full_disk)
    argv = ["--preset", "debug", "--run", str(folder), "-q", "--resume"]
    assert train.main(argv) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the checkpoint after step 20 could not be saved: ") and said.count("\n") == 1
    assert "File too large" in said and f"the last checkpoint is {folder}/checkpoints/step-000010; when that is" in said
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-000000", "step-000010"]
    for path in checkpoint.checkpoints(folder):
        sealed.verify(path, FILES)
    monkeypatch.undo()
    assert train.main(argv) == 0  # once there is room again
