"""An exported run is what Hugging Face's libraries and EleutherAI's harness open, with the same ids, logits and losses."""

import json
import math
import os
import subprocess
import sys
from importlib import import_module

import pytest
import tokenizers
import torch
import transformers
from torch.nn.functional import cross_entropy

from shared import corpora

checkpoint = import_module("04_gpt2.checkpoint")
generate = import_module("04_gpt2.generate")
pretrained = import_module("04_gpt2.pretrained")
train = import_module("04_gpt2.train")
GPT = import_module("04_gpt2.model").GPT
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    """The folder of an export of a debug run."""
    folder = tmp_path_factory.mktemp("exports") / "my gpt2"
    assert pretrained.main(["export", "--checkpoint", str(finished_run), "--to", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """A run whose text has fewer pairs to merge than its token table has rows, and its export."""
    folder = tmp_path_factory.mktemp("padded")
    (folder / "text.txt").write_text("to be or not to be\n" * 1000)
    argv = ["--preset", "debug", "--data", str(folder / "text.txt"), "--run", str(folder / "run"), "-q"]
    assert train.main(argv) == 0
    assert pretrained.main(["export", "--checkpoint", str(folder / "run"), "--to", str(folder / "hf")]) == 0
    return folder / "run", folder / "hf"


def test_transformers_opens_it_and_computes_the_same(finished_run, exported):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    ours, tokenizer = checkpoint.load(finished_run, CPU)
    for text in (corpora.plays()["hamlet"][:3000], "naïve — 你好 😀\n\n  12345's", ""):
        assert their_tokenizer.encode(text) == tokenizer.encode(text)
        assert their_tokenizer.decode(tokenizer.encode(text)) == text
    idx = torch.randint(ours.config.vocab_size, (3, ours.config.block_size))
    expected = theirs(idx, labels=idx)
    logits, loss = ours(idx)[0], cross_entropy(ours(idx)[0][:, :-1].flatten(0, 1), idx[:, 1:].flatten())
    torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, expected.loss)
    end = tokenizer.specials["<|endoftext|>"]
    assert their_tokenizer.eos_token_id == their_tokenizer.bos_token_id == theirs.config.eos_token_id == end
    assert theirs.generation_config.eos_token_id == end and their_tokenizer.model_max_length == ours.config.block_size


def test_it_loads_back(finished_run, exported):
    ours, _ = checkpoint.load(finished_run, CPU)
    back = GPT.from_pretrained(exported)
    assert back.config == ours.config
    for (name, tensor), (other, expected) in zip(back.state_dict().items(), ours.state_dict().items(), strict=True):
        assert name == other and torch.equal(tensor, expected), name


def test_generate_writes_from_it_what_it_writes_from_the_run(finished_run, exported, capsys):
    said = []
    for source in (["--checkpoint", str(finished_run)], ["--pretrained", str(exported)]):
        assert generate.main([*source, "--prompt", "ROMEO:", "--max-new-tokens", "20"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and len(said[0]) > 20


def test_tokenizers_opens_its_vocabulary(finished_run, exported):
    theirs = tokenizers.Tokenizer.from_file(str(exported / "tokenizer.json"))
    _, tokenizer = checkpoint.load(finished_run, CPU)
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    assert theirs.encode("one<|endoftext|>two").ids == tokenizer.encode("one<|endoftext|>two", {"<|endoftext|>"})


def test_the_card_tells_what_the_run_recorded(finished_run, exported):
    card = (exported / "README.md").read_text(encoding="utf-8")
    records = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    for key, unit in (
        ("val_loss", "nats per token"),
        ("whole_val_loss", "nats per token"),
        ("counting_bits_per_byte", "bits"),
    ):
        last = [record[key] for record in records if key in record][-1]
        assert f"| {last:.4f} {unit}" in card, key
    settings = checkpoint.settings(checkpoint.find(finished_run))
    for fact in ("tinyshakespeare", "| 20 of 20, 512 tokens each |", "learning rate 0.004", "library_name: transformers"):
        assert fact in card
    assert f"{GPT.from_pretrained(exported).config.n_params:,}" in card and str(settings["seed"]) in card
    code = card.split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=exported.parent, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout) > 5, done.stderr


def test_padding_is_exported_and_never_written(padded, capsys):
    run, folder = padded
    ours, tokenizer = checkpoint.load(run, CPU)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert tokenizer.vocab_size < theirs.config.vocab_size == ours.config.vocab_size == 512
    idx = torch.randint(tokenizer.vocab_size, (1, 32))
    torch.testing.assert_close(theirs(idx).logits, ours(idx)[0], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        theirs.transformer.wte.weight[tokenizer.vocab_size :] *= 1000  # half of them become far the likeliest
    written = theirs.generate(idx[:, :4], max_new_tokens=25, do_sample=True, top_k=0)
    assert written.max() < tokenizer.vocab_size <= theirs(written).logits.argmax(dim=-1).max()
    assert pretrained.main(["verify", str(folder)]) == 0
    assert "is the same function" in capsys.readouterr().out


def test_nothing_is_overwritten_unasked(finished_run, exported, tmp_path, capsys):
    export = ["export", "--checkpoint", str(finished_run), "--to"]
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert pretrained.main([*export, str(exported)]) == 2
    assert f"{exported} holds an export already; name another folder, or give --overwrite" in capsys.readouterr().err
    (exported / "README.md").write_text("changed")
    assert pretrained.main([*export, str(exported), "--overwrite"]) == 0
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]
    (tmp_path / "thesis.txt").write_text("mine")
    assert pretrained.main([*export, str(tmp_path), "--overwrite"]) == 2
    assert f"{tmp_path} holds something other than an export: thesis.txt" in capsys.readouterr().err
    assert pretrained.main([*export, str(tmp_path / "thesis.txt"), "--overwrite"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["export"], 2, "--to is missing"),
        (["export", "--checkpoint", "no/such/run", "--to", "x"], 2, "no/such/run is not there"),
        (["export", "--checkpoint", "RUN", "--to", "/dev/null/x"], 1, "/dev/null/x could not be written"),
        (["verify", "no/such/folder"], 2, "no/such/folder is not there, and it is no name of a model"),
        (["verify", "RUN"], 2, "config.json"),
        ([], 2, "the following arguments are required: what"),
    ],
)
def test_wrong_use_gets_one_sentence(finished_run, tmp_path, monkeypatch, capsys, argv, status, message):
    monkeypatch.chdir(tmp_path)
    assert pretrained.main([str(finished_run) if value == "RUN" else value for value in argv]) == status
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


TASK = """task: speeches
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{path}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def test_the_harness_scores_it_as_we_do(finished_run, exported, tmp_path):
    """EleutherAI's lm_eval, offline, on a task of four questions: its log-likelihoods are those of our model."""
    pytest.importorskip("lm_eval", reason='the harness comes with pip install -e ".[eval]"')
    choices = [" to be", " the king", " zx", " my lord, I"]
    documents = [{"question": q, "choices": choices, "answer": i} for i, q in enumerate(["ROMEO:", "Enter", "I am", "O"])]
    (tmp_path / "speeches.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    (tmp_path / "speeches.yaml").write_text(TASK.format(path=tmp_path / "speeches.jsonl"))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = ["-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={exported}", "--tasks", "speeches"]
    command += ["--include_path", str(tmp_path), "--device", "cpu", "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run([sys.executable, *command], env=os.environ | offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    model, tokenizer = checkpoint.load(finished_run, CPU)
    [samples] = (tmp_path / "out").rglob("samples_speeches_*.jsonl")
    right = 0
    for line in samples.read_text().splitlines():
        sample = json.loads(line)
        theirs = [float(response[0][0]) for response in sample["resps"]]
        ours = []
        for choice in choices:
            question, whole = (
                tokenizer.encode(text) for text in (sample["doc"]["question"], sample["doc"]["question"] + choice)
            )
            log_p = model(torch.tensor([whole]))[0].log_softmax(dim=-1)[0]
            ours.append(sum(log_p[t - 1, whole[t]].item() for t in range(len(question), len(whole))))
        assert theirs == pytest.approx(ours, abs=1e-3)
        right += max(range(4), key=ours.__getitem__) == sample["doc"]["answer"]
    [results] = (tmp_path / "out").rglob("results_*.json")
    assert math.isclose(json.loads(results.read_text())["results"]["speeches"]["acc,none"], right / 4)
