"""An exported run is what Hugging Face's libraries and EleutherAI's harness open, with the same ids, logits and losses."""

import json
import math
import os
import shutil
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
export = import_module("04_gpt2.export")
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
    logits, loss = ours(idx), cross_entropy(ours(idx)[:, :-1].flatten(0, 1), idx[:, 1:].flatten())
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
    done = subprocess.run([sys.executable, "-c", code], cwd=exported, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout) > 5, done.stderr


def test_padding_is_exported_and_never_written(padded, capsys):
    run, folder = padded
    ours, tokenizer = checkpoint.load(run, CPU)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert tokenizer.vocab_size < theirs.config.vocab_size == ours.config.vocab_size == 512
    idx = torch.randint(tokenizer.vocab_size, (1, 32))
    torch.testing.assert_close(theirs(idx).logits, ours(idx), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        theirs.transformer.wte.weight[tokenizer.vocab_size :] *= 1000  # half of them become far the likeliest
    written = theirs.generate(idx[:, :4], max_new_tokens=25, do_sample=True, top_k=0)
    assert written.max() < tokenizer.vocab_size <= theirs(written).logits.argmax(dim=-1).max()
    assert pretrained.main(["verify", str(folder)]) == 0
    assert "is the same function" in capsys.readouterr().out


def test_nothing_is_ever_replaced(finished_run, exported, tmp_path, capsys):
    taken = [exported, tmp_path / "file", tmp_path / "link", tmp_path / "empty", tmp_path / "cut"]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.partial").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for folder in taken:
        assert pretrained.main(["export", "--checkpoint", str(finished_run), "--to", str(folder)]) == 2
        assert "is there already, and an export replaces nothing; name a new folder" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "file").read_text() == "mine"


def test_an_export_that_is_cut_off_leaves_nothing(finished_run, tmp_path, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_tokenizer", interrupted)
    assert pretrained.main(["export", "--checkpoint", str(finished_run), "--to", str(tmp_path / "new")]) == 130
    assert list(tmp_path.iterdir()) == []


def test_any_checkpoint_can_be_exported_wherever_it_lies(finished_run, tmp_path, monkeypatch):
    first = checkpoint.checkpoints(finished_run)[0]
    shutil.copytree(first, tmp_path / "copied")
    monkeypatch.chdir(tmp_path / "copied")
    for source, name in ((first, "there"), (".", "here")):
        assert pretrained.main(["export", "--checkpoint", str(source), "--to", str(tmp_path / name)]) == 0
        ours, back = checkpoint.load(first, CPU)[0], GPT.from_pretrained(tmp_path / name)
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), back.parameters(), strict=True))
    there, here = ((tmp_path / name / "README.md").read_text(encoding="utf-8") for name in ("there", "here"))
    step = checkpoint.step_of(first)
    records = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    [loss] = [record["val_loss"] for record in records if record["step"] == step and "val_loss" in record]
    assert f"| {step} of 20, 512 tokens each |" in there and f"| {loss:.4f} nats per token |" in there
    assert "| losses | not recorded beside this checkpoint |" in here and "validation loss" not in here


def test_the_card_says_whose_vocabulary_it_is_and_dropout_is_kept(tmp_path):
    (tmp_path / "text.txt").write_text(corpora.tinyshakespeare()[:3000])
    argv = ["--preset", "debug", "--tokenizer", "gpt2", "--vocab-size", "50257", "--steps", "1", "--warmup-steps", "0"]
    argv += ["--n-layer", "1", "--n-embd", "4", "--n-head", "1", "--dropout", "0.25", "--eval-tokens", "99"]
    assert train.main([*argv, "--data", str(tmp_path / "text.txt"), "--run", str(tmp_path / "run"), "-q"]) == 0
    assert pretrained.main(["export", "--checkpoint", str(tmp_path / "run"), "--to", str(tmp_path / "hf")]) == 0
    card = (tmp_path / "hf/README.md").read_text(encoding="utf-8")
    assert "50,257 ids, GPT-2's own" in card and "| data | text.txt, " in card and "first 99 tokens" in card
    assert transformers.GPT2Config.from_pretrained(tmp_path / "hf").resid_pdrop == 0.25
    modes = {path.stat().st_mode for path in (tmp_path / "hf").iterdir()}
    assert len(modes) == 1  # the weights are readable to whom the rest is


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["export"], 2, "export takes --checkpoint, the run, and --to, the new folder, and nothing else"),
        (["export", "--checkpoint", "RUN"], 2, "export takes --checkpoint, the run, and --to"),
        (["export", "runs/mine", "--checkpoint", "RUN", "--to", "x"], 2, "export takes --checkpoint"),
        (["verify", "--checkpoint", "RUN"], 2, "verify takes neither --checkpoint nor --to"),
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
            log_p = model(torch.tensor([whole])).log_softmax(dim=-1)[0]
            ours.append(sum(log_p[t - 1, whole[t]].item() for t in range(len(question), len(whole))))
        assert theirs == pytest.approx(ours, abs=1e-3)
        right += max(range(4), key=ours.__getitem__) == sample["doc"]["answer"]
    [results] = (tmp_path / "out").rglob("results_*.json")
    assert math.isclose(json.loads(results.read_text())["results"]["speeches"]["acc,none"], right / 4)
