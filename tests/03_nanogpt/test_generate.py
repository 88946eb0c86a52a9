"""The sampling command, on a short run."""

from importlib import import_module

import pytest
import torch

checkpoint = import_module("03_nanogpt.checkpoint")
generate = import_module("03_nanogpt.generate")
tokenizer = import_module("03_nanogpt.tokenizer")


def written(capsys, folder, *flags):
    assert generate.main(["--checkpoint", str(folder), "--device", "cpu", *flags]) == 0
    return capsys.readouterr()


def test_it_writes_what_the_model_generates(finished_run, capsys):
    out = written(
        capsys, finished_run, "--prompt", "7 times", "--max-new-tokens", "60", "--temperature", "0.9", "--top-k", "5"
    ).out
    net = checkpoint.load(finished_run)
    ids = torch.tensor([list(b"7 times")])
    rng = torch.Generator().manual_seed(1337)
    assert out == tokenizer.printable(bytes(net.generate(ids, 60, 0.9, 5, rng)[0].tolist()).decode()) + "\n"


def test_control_codes_reach_no_terminal(finished_run, capsys):
    out = written(capsys, finished_run, "--temperature", "1000", "--max-new-tokens", "300", "--prompt", "\x1b[2J").out
    assert out.startswith("␛[2J") and not set(out) & {chr(code) for code in range(32) if chr(code) not in "\n\t"}


def test_the_seed_decides(finished_run, capsys):
    texts = [written(capsys, finished_run, "--seed", seed, "--max-new-tokens", "80").out for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


def test_a_prompt_that_is_not_ascii_or_too_long_is_noted(finished_run, capsys):
    result = written(capsys, finished_run, "--prompt", "’" + "x" * 20, "--max-new-tokens", "1")
    assert result.out.startswith("'" + "x" * 20)
    assert "note: in the prompt 1 character is not ASCII: ’ became ' (once)" in result.err
    assert "note: the model sees the last 16 characters at most" in result.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoint", "nowhere"], "model.safetensors is not there; train a model first"),
        (["--prompt", ""], "--prompt is empty; at least one character"),
        (["--temperature", "-1"], "--temperature is -1.0; a number of at least 0 is expected"),
        (["--top-k", "0"], "--top-k is 0; at least 1 is expected"),
        (["--max-new-tokens", "-1"], "--max-new-tokens is -1; at least 0 is expected"),
        (["--seed", "-1"], "--seed is -1; at least 0 and below 2**63 is expected"),
    ],
)
def test_wrong_use_gets_one_sentence(finished_run, flags, message, capsys):
    assert generate.main(["--checkpoint", str(finished_run), "--max-new-tokens", "2", *flags]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert captured.out == ""
