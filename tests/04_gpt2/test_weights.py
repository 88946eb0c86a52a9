"""GPT.from_pretrained on files of every published layout, written by transformers or by hand, and on broken ones."""

import json
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

cli = import_module("shared.cli")
config = import_module("04_gpt2.config")
weights = import_module("04_gpt2.weights")
tokenizer = import_module("04_gpt2.tokenizer")
tokenizer_json = import_module("04_gpt2.tokenizer_json")
GPT = import_module("04_gpt2.model").GPT

SHAPE = {"vocab_size": 61, "n_positions": 20, "n_embd": 24, "n_layer": 3, "n_head": 4}


@pytest.fixture
def theirs():
    """Hugging Face's model with random numbers in every tensor, biases and LayerNorms too."""
    model = GPT2LMHeadModel(GPT2Config(**SHAPE)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.01, std=0.2)
    return model


@pytest.fixture
def folder(theirs, tmp_path):
    """That model as transformers saves it: transformer.h.0..., one safetensors file."""
    theirs.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def tensors(model):
    """Its numbers under the names of OpenAI's files: h.0..., no output head."""
    return {name.removeprefix("transformer."): t.clone() for name, t in model.state_dict().items() if name != "lm_head.weight"}


def rewrite(folder, change):
    """Put `change(tensors)` in the place of the folder's weights."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def reconfigure(folder, **changes):
    found = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (found | changes).items() if v is not ...}))


def assert_same_function(ours, theirs):
    idx = torch.randint(SHAPE["vocab_size"], (2, SHAPE["n_positions"]))
    with torch.no_grad():
        torch.testing.assert_close(ours(idx), theirs(idx).logits, atol=2e-5, rtol=1e-4)


def masks(n_layer, T, old):
    for i in range(n_layer):
        yield f"h.{i}.attn.bias", torch.ones(T, T).tril().view(1, 1, T, T)
        if old:
            yield f"h.{i}.attn.masked_bias", torch.tensor(-1e4)


@pytest.mark.parametrize("layout", ["openai", "openai, old", "transformers", "transformers, with the head", "half"])
def test_every_published_layout_loads(theirs, folder, layout):
    stored = {"transformer." + name: tensor for name, tensor in tensors(theirs).items()}
    if layout.startswith("openai"):
        stored = tensors(theirs) | dict(masks(3, 20, old="old" in layout))
    if "head" in layout:
        stored |= {"lm_head.weight": theirs.lm_head.weight.detach().clone()}
        stored |= {"transformer." + name: mask for name, mask in masks(3, 20, old=True)}
    if layout == "half":
        theirs = theirs.half().float()
        stored = {name: tensor.half() for name, tensor in stored.items()}
    save_file(stored, folder / "model.safetensors")
    ours = GPT.from_pretrained(folder)
    assert not ours.training and ours.lm_head.weight is ours.transformer.wte.weight
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert_same_function(ours, theirs)


def test_weights_spread_over_several_files_load(theirs, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2 and not (tmp_path / "model.safetensors").exists()
    assert_same_function(GPT.from_pretrained(str(tmp_path)), theirs)
    first = min(tmp_path.glob("model-*.safetensors"))
    first.unlink()
    with pytest.raises(cli.UsageError, match=rf"{first.name} is missing, though the index"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../b"}}', '{"weight_map": 3}'])
def test_a_broken_index_is_refused_by_name(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(cli.UsageError, match=r"model\.safetensors\.index\.json is not an index of weights"):
        GPT.from_pretrained(folder)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "the form of 2019"])
def test_the_older_pickled_file_loads(theirs, folder, zipped):
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save(theirs.state_dict(), path, _use_new_zipfile_serialization=zipped)
    assert_same_function(GPT.from_pretrained(folder), theirs)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "plain pickle"])
def test_code_in_a_pickle_is_never_run(folder, zipped):
    (folder / "model.safetensors").unlink()
    path, traces = folder / "pytorch_model.bin", folder / "it ran"
    if zipped:
        torch.save({"wte.weight": Bomb(traces)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(traces), protocol=2))
    with pytest.raises(cli.UsageError, match=r"pytorch_model\.bin is damaged, or holds something other than tensors"):
        GPT.from_pretrained(folder)
    assert not traces.exists()
    pickle.loads(pickle.dumps(Bomb(traces)))
    assert traces.exists(), "the bomb does explode in a loader that runs code"


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"wte.weight": [1.0]}, 3])
def test_a_pickle_of_other_things_is_refused(folder, content):
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(cli.UsageError, match=r"pytorch_model\.bin holds no dictionary of tensors"):
        GPT.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 7, 40, 0.5, 0.999])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_that_was_cut_off_is_refused_by_name(theirs, folder, name, keep):
    path = folder / name
    if name.endswith(".bin"):
        (folder / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(cli.UsageError, match=name.replace(".", r"\.") + r" (is|cannot)"):
        GPT.from_pretrained(folder)


def without(name):
    return lambda found: {n: t for n, t in found.items() if n != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda found: found | {"transformer.ln_f.bias": torch.zeros(24, dtype=torch.int8)},
            r"transformer\.ln_f\.bias is of type torch\.int8; floating-point numbers are expected",
        ),
        (without("transformer.h.2.ln_2.bias"), r"lacks the tensor transformer\.h\.2\.ln_2\.bias; 40 are expected"),
        (without("transformer.wte.weight"), r"lacks the tensor transformer\.wte\.weight; 40 are expected"),
        (lambda found: {}, r"lacks the tensor transformer\.wte\.weight, nor 39 others"),
        (lambda found: found | {"h.3.ln_1.bias": torch.zeros(24)}, r"the tensor h\.3\.ln_1\.bias, which no GPT-2 has"),
        (lambda found: found | {"h.0.attn.rotary": torch.zeros(1)}, r"the tensor h\.0\.attn\.rotary, which no GPT-2 has"),
        (lambda found: found | {"h.0.mlp.bias": torch.zeros(1)}, r"the tensor h\.0\.mlp\.bias, which no GPT-2 has"),
        (lambda found: found | {"ln_f.bias": torch.zeros(24)}, r"the tensor transformer\.ln_f\.bias, a second time"),
        (
            lambda found: found | {"transformer.h.1.attn.c_attn.weight": torch.zeros(72, 24)},
            r"h\.1\.attn\.c_attn\.weight has shape \(72, 24\), expected \(24, 72\)",
        ),
        (
            lambda found: found | {"transformer.wte.weight": torch.zeros(60, 24)},
            r"transformer\.wte\.weight has shape \(60, 24\), expected \(61, 24\)",
        ),
        (lambda found: found | {"lm_head.weight": torch.zeros(61, 24)}, r"an output head \(lm_head\.weight\) that is not its"),
        (
            lambda found: found | {"lm_head.weight": torch.zeros(6, 24)},
            r"lm_head\.weight has shape \(6, 24\), expected \(61, 24\)",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_the_tensor_named(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(cli.UsageError, match=message):
        GPT.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', expected 'gpt2'"),
        ({"model_type": ...}, "names no model_type"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu', expected 'gelu_new'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06, expected 1e-05"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, expected False"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, expected True"),
        ({"add_cross_attention": True}, "add_cross_attention is True, expected False"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False, expected True"),
        ({"n_inner": 90}, "an MLP of width 90; GPT-2's is four times n_embd, 96"),
        ({"n_head": 5}, "n_head 5 does not divide n_embd 24"),
        ({"n_layer": "three"}, "n_layer is three"),
    ],
)
def test_another_architecture_is_refused_and_the_difference_named(folder, changes, message):
    reconfigure(folder, **changes)
    with pytest.raises(cli.UsageError, match=rf"config\.json.* {message}"):
        GPT.from_pretrained(folder)


def test_what_the_configuration_leaves_out_is_gpt2s(folder):
    reconfigure(folder, activation_function=..., layer_norm_epsilon=..., n_inner=96)
    GPT.from_pretrained(folder)
    reconfigure(folder, activation_function="gelu_pytorch_tanh")  # another name of the same form
    GPT.from_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    assert weights.read_shape(folder) == config.GPTConfig()


@pytest.mark.parametrize("content", [None, "", "[]", "null", "3", "\udcff"])
def test_a_folder_without_a_configuration_is_refused(folder, content):
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(cli.UsageError, match=r"config\.json"):
        GPT.from_pretrained(folder)


def test_a_folder_without_weights_and_a_file_are_refused(folder):
    with pytest.raises(cli.UsageError, match="is a file; the folder of a model is expected"):
        GPT.from_pretrained(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(cli.UsageError, match=r"holds no weights: model\.safetensors is expected"):
        GPT.from_pretrained(folder)


def test_the_dtype_may_be_chosen(theirs, folder):
    ours = GPT.from_pretrained(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    theirs = theirs.bfloat16()
    assert torch.equal(ours.transformer.h[1].mlp.c_fc.weight, theirs.transformer.h[1].mlp.c_fc.weight.t())
    idx = torch.randint(61, (1, 20))
    torch.testing.assert_close(ours(idx), theirs(idx).logits, atol=0.2, rtol=0.1)
    with pytest.raises(cli.UsageError, match=r"torch\.int8 cannot hold weights; torch\.float32"):
        GPT.from_pretrained(folder, dtype=torch.int8)


def test_positions_may_be_cut_but_not_added(theirs, folder):
    ours = GPT.from_pretrained(folder, block_size=7)
    assert ours.config.block_size == 7 and ours.transformer.wpe.weight.shape == (7, 24)
    idx = torch.randint(61, (2, 7))
    torch.testing.assert_close(ours(idx), theirs(idx).logits, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="8 tokens in a row, but this model has 7 positions"):
        ours(torch.randint(61, (1, 8)))
    with pytest.raises(cli.UsageError, match="block_size 21 is more than the 20 positions"):
        GPT.from_pretrained(folder, block_size=21)
    with pytest.raises(cli.UsageError, match="block_size is 0"):
        GPT.from_pretrained(folder, block_size=0)


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_padding_changes_no_logit_and_hardly_the_loss(theirs, folder, spread):
    torch.nn.init.normal_(
        theirs.transformer.wte.weight, mean=-0.5, std=spread
    )  # logits far below 0, as the published ones are
    theirs.save_pretrained(folder)
    ours, idx = GPT.from_pretrained(folder, vocab_size=64), torch.randint(61, (4, 20))
    logits, expected = ours(idx), theirs(idx).logits
    assert logits.shape[-1] == 64 and ours.lm_head.weight is ours.transformer.wte.weight
    torch.testing.assert_close(logits[..., :61], expected, atol=1e-4, rtol=1e-4)
    more = cross_entropy(logits[0], idx[0]) - cross_entropy(expected[0], idx[0])
    assert -1e-4 < more < math.log(64 / 61) + 1e-4
    with pytest.raises(cli.UsageError, match="vocab_size 60 is less than the 61 rows"):
        GPT.from_pretrained(folder, vocab_size=60)


def test_the_tokenizer_beside_the_weights_must_fit_them(folder):
    learned = import_module("04_gpt2.bpe").BytePairTokenizer.train("to be or not to be", 270)
    tokenizer_json.save(learned, folder / "tokenizer.json")
    with pytest.raises(
        cli.UsageError,
        match=r"does not fit the weights in .*<\|endoftext\|> and at most 61 ids are expected, and it has 2\d\d",
    ):
        weights.load_with_tokenizer(folder, torch.device("cpu"))
    GPT2LMHeadModel(GPT2Config(**SHAPE | {"vocab_size": learned.vocab_size})).save_pretrained(folder)
    model, found = weights.load_with_tokenizer(folder, torch.device("cpu"))
    assert (model.config.vocab_size, found.merges) == (learned.vocab_size, learned.merges)
    learned = import_module("04_gpt2.bpe").BytePairTokenizer(learned.merges, specials=["<s>"])
    tokenizer_json.save(learned, folder / "tokenizer.json")
    with pytest.raises(cli.UsageError, match=r"<\|endoftext\|> and at most .* the special tokens \['<s>'\]"):
        weights.load_with_tokenizer(folder, torch.device("cpu"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(cli.UsageError, match="cannot read the tokenizer"):
        weights.load_with_tokenizer(folder, torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "n_params"),
    [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)],
)
def test_the_four_published_sizes_have_their_parameters(name, n_params):
    shape = replace(config.PRESETS[name].model, vocab_size=50257)
    with torch.device("meta"):
        ours = GPT(shape)
        theirs = GPT2LMHeadModel(GPT2Config(n_layer=shape.n_layer, n_head=shape.n_head, n_embd=shape.n_embd))
    assert n_params == shape.n_params == sum(p.numel() for p in ours.parameters()) == theirs.num_parameters()


MEASURE = """
import sys
from importlib import import_module
from pathlib import Path
import torch
GPT = import_module("04_gpt2.model").GPT
import_module("04_gpt2.weights")
GPT.from_pretrained(sys.argv[2])  # what the first use of PyTorch brings along is not the model's
def kilobytes(what):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = kilobytes("VmRSS")
model = GPT.from_pretrained(sys.argv[1])
size = sum(p.numel() * p.element_size() for p in model.parameters()) / 1024
print((kilobytes("VmHWM") - before) / size)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak memory so simply")
def test_loading_needs_hardly_more_memory_than_the_model(tmp_path):
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=12_000, n_embd=512, n_layer=16, n_head=8)
    )  # 228 MB, 25 of them in one tensor
    model.save_pretrained(tmp_path)
    GPT2LMHeadModel(GPT2Config(**SHAPE)).save_pretrained(tmp_path / "small")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path, tmp_path / "small"], capture_output=True, text=True, check=True
    )
    assert 0.9 < float(done.stdout) < 1.2
