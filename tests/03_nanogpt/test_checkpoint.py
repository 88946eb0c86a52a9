"""A model saved is a model loaded, and what is no such file is named."""

import pickle
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shared.cli import RunError, UsageError

checkpoint = import_module("03_nanogpt.checkpoint")
model = import_module("03_nanogpt.model")

CONFIG = model.NonaGPTConfig(block_size=8, n_layer=1, n_head=2, n_embd=16, dropout=0.25)


def test_the_loaded_model_is_the_saved_one(tmp_path):
    saved = model.NonaGPT(CONFIG).train()
    checkpoint.save(saved, tmp_path)
    loaded = checkpoint.load(tmp_path)
    assert loaded.config == CONFIG and not loaded.training
    assert saved.state_dict().keys() == loaded.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), loaded.parameters(), strict=True))
    assert loaded.lm_head.weight is loaded.token_embedding_table.weight
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_save_that_fails_leaves_the_one_before_whole(tmp_path, monkeypatch):
    first = model.NonaGPT(CONFIG)
    checkpoint.save(first, tmp_path)

    def full_disk(model, file, metadata):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_model", full_disk)
    with pytest.raises(RunError, match=r"model\.safetensors cannot be written: .*No space left"):
        checkpoint.save(model.NonaGPT(CONFIG), tmp_path)
    assert torch.equal(checkpoint.load(tmp_path).lm_head.weight, first.lm_head.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_folder_without_a_model_says_how_to_get_one(tmp_path):
    with pytest.raises(UsageError, match=r"model\.safetensors is not there; train a model first"):
        checkpoint.load(tmp_path)
    with pytest.raises(UsageError, match="is not there"):
        checkpoint.load(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["cut off", "empty", "pickle", "no config", "other shape", "other keys", "other config"])
def test_a_file_that_is_no_saved_model_is_refused_in_one_sentence(tmp_path, damage):
    file = tmp_path / "model.safetensors"
    checkpoint.save(model.NonaGPT(CONFIG), tmp_path)
    whole = file.read_bytes()
    config = '{"block_size": 8, "vocab_size": 128, "n_layer": 1, "n_head": 2, "n_embd": 16, "dropout": 0.0}'
    if damage == "cut off":
        file.write_bytes(whole[:-100])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "pickle":
        file.write_bytes(pickle.dumps(print))
    elif damage == "no config":
        save_file({"a": torch.zeros(2)}, file)
    elif damage == "other shape":
        save_file({"lm_head.weight": torch.zeros(2, 2)}, file, metadata={"config": config})
    elif damage == "other keys":
        save_file({"a": torch.zeros(2)}, file, metadata={"config": config})
    else:
        save_file({"a": torch.zeros(2)}, file, metadata={"config": config.replace("n_head", "heads")})
    with pytest.raises(UsageError, match=r"model\.safetensors is not a model that 03_nanogpt\.train has saved") as refused:
        checkpoint.load(tmp_path)
    assert "\n" not in str(refused.value)
