"""The verification command: it proves what is equal, notices what is not, and says which weights it was about."""

import json
import socket
from importlib import import_module
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

hub = import_module("04_gpt2.hub")
pretrained = import_module("04_gpt2.pretrained")
verify = import_module("04_gpt2.verify")


@pytest.fixture
def saved(tmp_path):
    """A folder with a small model of transformers' and no tokenizer; it takes GPT-2's."""
    model = GPT2LMHeadModel(GPT2Config(n_positions=40, n_embd=16, n_layer=2, n_head=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_equal_models_are_found_equal(saved, capsys):
    assert pretrained.main(["verify", str(saved)]) == 0
    out = capsys.readouterr().out
    n_params = GPT2LMHeadModel.from_pretrained(saved).num_parameters()
    assert f"with these {n_params:,} numbers this project's model is the same function" in out
    assert "logits (1, 40, 50257)" in out and "gradient of h.*.attn.c_attn.weight (2 times)" in out
    assert out.count("gradient of ") == 16 and "greedy continuation, 16 tokens" in out and "DIFFERENT" not in out


def perturb(name, factor):
    """A from_pretrained whose tensor `name` is a little off."""
    load = verify.from_pretrained

    def loads(folder):
        model = load(folder)
        with torch.no_grad():
            model.get_parameter(name).mul_(factor)
        return model

    return loads


@pytest.mark.parametrize("name", ["transformer.h.1.mlp.c_proj.bias", "transformer.h.0.ln_1.weight", "transformer.wpe.weight"])
def test_a_tensor_that_is_off_by_a_hundredth_is_noticed(saved, monkeypatch, capsys, name):
    monkeypatch.setattr(verify, "from_pretrained", perturb(name, 1.01))
    assert pretrained.main(["verify", str(saved)]) == 1
    out = capsys.readouterr().out
    assert "  DIFFERENT" in out and "is ANOTHER FUNCTION" in out


def test_a_gradient_that_is_wrong_is_noticed_though_the_logits_are_right(saved, monkeypatch, capsys):
    load = verify.from_pretrained

    def loads(folder):
        model = load(folder)
        model.transformer.h[1].ln_2.bias.register_hook(lambda gradient: gradient * 1.01)
        return model

    monkeypatch.setattr(verify, "from_pretrained", loads)
    assert pretrained.main(["verify", str(saved)]) == 1
    [wrong] = [line for line in capsys.readouterr().out.splitlines() if line.endswith("  DIFFERENT")]
    assert wrong.startswith("gradient of h.*.ln_2.bias (2 times)")


def test_weights_that_are_no_numbers_are_never_equal(saved, capsys):
    path = saved / "model.safetensors"
    weights = load_file(path)
    weights["transformer.wpe.weight"][3, 5] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    assert pretrained.main(["verify", str(saved)]) == 1
    assert "nan    1e-05  DIFFERENT" in capsys.readouterr().out


def different(out):
    """The lines that say so."""
    return [line for line in out.splitlines() if line.endswith("DIFFERENT")]


def test_a_continuation_that_differs_is_noticed(saved, monkeypatch, capsys):
    monkeypatch.setattr(verify, "sample", lambda *args, **kwargs: [[1, 2, 3]])
    assert pretrained.main(["verify", str(saved)]) == 1
    [line] = different(capsys.readouterr().out)
    assert line.startswith("greedy continuation, 3 tokens")


def test_a_loss_that_differs_is_noticed(saved, monkeypatch, capsys):
    results = verify.their_results

    def other(*arguments):
        found = results(*arguments)
        return found | {"loss": found["loss"] * 1.00001}

    monkeypatch.setattr(verify, "their_results", other)
    assert pretrained.main(["verify", str(saved)]) == 1
    [line] = different(capsys.readouterr().out)
    assert line.startswith("loss, ")


def test_a_gradient_without_numbers_is_never_equal(saved, monkeypatch, capsys):
    load = verify.load_file
    monkeypatch.setattr(
        verify,
        "load_file",
        lambda path: {"gradient": load(path)["gradient"] * (torch.nan if "h.1.ln_1.bias" in str(path) else 1)},
    )
    assert pretrained.main(["verify", str(saved)]) == 1
    [line] = different(capsys.readouterr().out)
    assert line.startswith("gradient of h.*.ln_1.bias (2 times)") and " nan " in line


def with_tokenizer(folder, change):
    """Give the folder GPT-2's tokenizer in Hugging Face's form, with something changed in it."""
    verify.write_tokenizer(folder, verify.gpt2_tokenizer(), verify.read_shape(folder))
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_ids_that_differ_are_noticed_and_are_not_the_models_fault(saved, monkeypatch, capsys):
    with_tokenizer(saved, lambda content: None)
    assert pretrained.main(["verify", str(saved)]) == 0
    assert "token ids of a text" in capsys.readouterr().out
    peer = transformers.AutoTokenizer.from_pretrained

    class OneMore:
        def __init__(self, tokenizer):
            self.encode = lambda *args, **kwargs: [*tokenizer.encode(*args, **kwargs), 50256]

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda folder: OneMore(peer(folder)))
    assert pretrained.main(["verify", str(saved)]) == 1
    out = capsys.readouterr().out
    [line] = different(out)
    assert line.startswith("token ids of a text") and "is the same function" in out


def test_what_the_folder_says_of_sampling_is_not_part_of_the_proof(saved, capsys):
    chooses = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1, "do_sample": True, "temperature": 2.0}
    (saved / "generation_config.json").write_text(json.dumps(chooses))
    assert pretrained.main(["verify", str(saved)]) == 0


def test_padding_is_chosen_by_neither(saved, capsys):
    model = GPT2LMHeadModel(GPT2Config(n_positions=40, n_embd=16, n_layer=1, n_head=2, vocab_size=50400))
    with torch.no_grad():
        model.transformer.wte.weight[50257:] *= 1000  # half of them become far the likeliest
    model.save_pretrained(saved)
    assert pretrained.main(["verify", str(saved)]) == 0


def test_texts_that_end_end_in_both(saved, capsys):
    model = GPT2LMHeadModel.from_pretrained(saved)
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1)
        model.transformer.wte.weight[50256] = 10  # <|endoftext|> is always the likeliest
    model.save_pretrained(saved)
    assert pretrained.main(["verify", str(saved)]) == 0
    assert "greedy continuation, 0 tokens" in capsys.readouterr().out


@pytest.mark.parametrize("n_positions", [1, 2, 8, 17])
def test_models_that_see_little_are_compared_or_refused(saved, capsys, n_positions):
    GPT2LMHeadModel(GPT2Config(n_positions=n_positions, n_embd=16, n_layer=1, n_head=2)).save_pretrained(saved)
    assert pretrained.main(["verify", str(saved)]) == (2 if n_positions == 1 else 0)
    said = capsys.readouterr()
    if n_positions == 1:
        assert "has 1 position; with fewer than 2 there is no loss to compare" in said.err


@pytest.mark.parametrize("damage", ["cut", "empty", "no weights", "shape", "index", "pickle", "no end of text"])
def test_a_damaged_folder_is_one_sentence(saved, capsys, damage):
    path = saved / "model.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "shape":
        save_file(load_file(path) | {"transformer.ln_f.bias": torch.zeros(3)}, path, metadata={"format": "pt"})
    elif damage == "no end of text":
        other = import_module("04_gpt2.bpe").BytePairTokenizer([], specials=["<s>"])
        import_module("04_gpt2.tokenizer_json").save(other, saved / "tokenizer.json")
    else:
        path.unlink()
        if damage != "no weights":
            name = "model.safetensors.index.json" if damage == "index" else "pytorch_model.bin"
            (saved / name).write_text('{"weight_map": 3}' if damage == "index" else "hello")
    assert pretrained.main(["verify", str(saved)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_vocabulary_larger_than_the_table_is_refused(saved, capsys):
    GPT2LMHeadModel(GPT2Config(n_positions=40, n_embd=16, n_layer=1, n_head=2, vocab_size=300)).save_pretrained(saved)
    assert pretrained.main(["verify", str(saved)]) == 2
    assert "the vocabulary does not fit the weights in" in capsys.readouterr().err


def test_where_the_hub_cannot_be_reached_a_fresh_model_is_compared_and_that_is_said(monkeypatch, capsys):
    find = hub.find

    def unreachable(name, with_tokenizer=False):
        if isinstance(name, Path):
            return find(name)
        raise hub.UnreachableError(f"config.json of {name} is not in the cache, and the hub cannot be reached")

    monkeypatch.setattr(hub, "find", unreachable)
    small = {"n_layer": 2, "n_head": 2, "n_embd": 16}
    monkeypatch.setitem(verify.PRESETS, "gpt2-xl", type("Preset", (), {"model": verify.PRESETS["debug"].model}))
    peer = transformers.GPT2Config
    monkeypatch.setattr(transformers, "GPT2Config", lambda **asked: peer(**asked | small))
    assert pretrained.main(["verify", "gpt2-xl"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("the published weights are not at hand: config.json of gpt2-xl is not in the cache, and the hub")
    assert "on a freshly initialised model of gpt2-xl's size" in out and "token ids of a text" in out
    assert pretrained.main(["verify", "somebody/else"]) == 1
    assert capsys.readouterr().err == (
        "error: config.json of somebody/else is not in the cache, and the hub cannot be reached\n"
    )


def test_a_fresh_model_has_random_biases_and_the_size_of_its_name(tmp_path):
    folder = verify.fresh("gpt2", tmp_path)
    found = json.loads((folder / "config.json").read_text())
    assert [found[key] for key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")] == [12, 12, 768, 1024, 50257]
    weights = load_file(folder / "model.safetensors")
    assert all(tensor.std() > 0.01 for name, tensor in weights.items() if name.endswith("bias"))


@pytest.mark.network
@pytest.mark.parametrize("name", verify.GPT2_NAMES)
def test_the_published_weights_are_the_same_function_in_both(name, capsys):
    """gpt2 is downloaded where there is a network; the larger ones are checked where the cache holds them."""
    reachable = name == "gpt2" and not constants.HF_HUB_OFFLINE
    if reachable:
        try:
            socket.create_connection(
                (constants.ENDPOINT.partition("://")[2].partition("/")[0].partition(":")[0], 443), 5
            ).close()
        except OSError:
            reachable = False
    if not reachable and not isinstance(hub.try_to_load_from_cache(name, hub.CONFIG), str):
        pytest.skip(
            f"the published weights of {name} are not in the cache {constants.HF_HUB_CACHE}, and "
            + ("the hub cannot be reached" if name == "gpt2" else f"`python -m 04_gpt2.pretrained verify {name}` fetches them")
        )
    assert pretrained.main(["verify", name]) == 0
    assert f"{name} as it lies in " in capsys.readouterr().out
