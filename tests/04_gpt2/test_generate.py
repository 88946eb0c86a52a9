"""Sampling: against Hugging Face's filters, against frequencies, and through the command."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import TopKLogitsWarper, TopPLogitsWarper

bpe = import_module("04_gpt2.bpe")
config = import_module("04_gpt2.config")
generate = import_module("04_gpt2.generate")
model = import_module("04_gpt2.model")

TOKENIZER = bpe.BytePairTokenizer.train("to be or not to be that is the question " * 5, 270)
END = 269


@pytest.fixture
def gpt():
    """Twenty rows more than the tokenizer has ids, and weights that make every id likely somewhere."""
    torch.manual_seed(3)
    net = model.GPT(config.GPTConfig(block_size=8, vocab_size=290, n_layer=2, n_head=2, n_embd=16)).eval()
    for parameter in net.parameters():  # strong enough for every token in sight to matter
        torch.nn.init.normal_(parameter, std=0.5)
    return net


def sampled(net, n=12, samples=1, seed=0, prompt=(1, 2, 3), **settings):
    sampling = generate.Sampling(max_new_tokens=n, **settings)
    return generate.sample(net, [prompt] * samples, TOKENIZER, sampling, seed)


@given(st.integers(1, 40), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_filtering_equals_hugging_face(top_k, top_p, seed):
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed)) * 3
    candidates = TopKLogitsWarper(top_k)(None, logits)
    reached = candidates.softmax(-1).sort(-1, descending=True).values.cumsum(-1)
    assume(((reached - top_p).abs() > 1e-5).all())  # nearer than that, rounding decides
    assert torch.equal(generate.filter_logits(logits, top_k, top_p), TopPLogitsWarper(top_p)(None, candidates))


def test_top_p_of_one_and_no_top_k_keep_every_token():
    logits = torch.randn(2, 50_257) * 5
    assert torch.equal(generate.filter_logits(logits, None, 1.0), logits)


def test_the_smallest_temperature_is_greedy():
    logits = torch.randn(5, 40)
    for temperature in (1e-30, 1e-45, 1e-46, 1e-300):
        chosen = generate.choose(logits, generate.Sampling(temperature=temperature), torch.Generator())
        assert torch.equal(chosen, logits.argmax(-1))


def test_draws_follow_the_softmax_at_the_temperature():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    chance = torch.Generator().manual_seed(0)
    for temperature in (0.5, 1.0, 2.0):
        draws = generate.choose(logits.expand(40_000, 4), generate.Sampling(temperature=temperature, top_p=1.0), chance)
        shares = torch.bincount(draws, minlength=4) / 40_000
        expected = torch.softmax(logits[0] / temperature, dim=0)
        assert (shares - expected).abs().max() < 0.0125  # five standard errors


def test_temperature_zero_and_one_candidate_are_greedy(gpt):
    expected, in_sight = [], [1, 2, 3]
    for _ in range(12):  # greedy by the full forward; ids that the tokenizer lacks are out
        i = gpt(torch.tensor([in_sight]))[0, -1, : TOKENIZER.vocab_size].argmax().item()
        if i == END:
            break
        expected.append(i)
        in_sight = [*in_sight, i] if len(in_sight) < 8 else [*in_sight, i][-4:]
    assert expected
    assert sampled(gpt, temperature=0) == [expected]
    assert sampled(gpt, top_k=1, seed=9) == [expected]
    assert sampled(gpt, top_p=1e-6, seed=9) == [expected]


def test_padding_rows_are_never_sampled(gpt):
    with torch.no_grad():
        gpt.lm_head.weight[:270] = 0  # the padding has all the weight
    ids = [i for row in sampled(gpt, n=200, samples=4, temperature=3.0, top_p=1.0) for i in row]
    assert ids and max(ids) < TOKENIZER.vocab_size


def test_a_text_ends_at_end_of_text_while_others_go_on(gpt):
    rows = sampled(gpt, n=300, samples=6, temperature=1e4, top_p=1.0)  # every id is as likely as END
    assert all(END not in row for row in rows)
    lengths = sorted(map(len, rows))
    assert lengths[0] < lengths[-1] <= 300


def test_the_same_seed_writes_the_same_text_and_the_model_keeps_its_mode(gpt):
    gpt.train()
    assert sampled(gpt, samples=3, seed=5) == sampled(gpt, samples=3, seed=5)
    assert sampled(gpt, samples=3, seed=5) != sampled(gpt, samples=3, seed=6)
    assert gpt.training


def test_special_tokens_in_a_prompt_are_ordinary_text_and_an_empty_prompt_begins_a_text():
    assert generate.encode_prompt("", TOKENIZER) == [END]
    assert END not in generate.encode_prompt("<|endoftext|>", TOKENIZER)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; at least 1"),
        ({"temperature": -1.0}, r"temperature is -1\.0; a number of at least 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0; at least 1"),
        ({"top_p": 0.0}, r"top_p is 0\.0; above 0 and at most 1"),
        ({"top_p": 1.5}, r"top_p is 1\.5; above 0 and at most 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        replace(generate.Sampling(), **settings)


def test_the_command_writes_every_sample(finished_run, capsys):
    argv = ["--checkpoint", str(finished_run), "--prompt", "ROMEO:", "--samples", "3", "--max-new-tokens", "20"]
    assert generate.main(argv) == 0
    first = capsys.readouterr().out
    assert first.startswith("ROMEO:") and first.count("ROMEO:") == 3
    assert first.count("--- sample ") == 2
    assert generate.main(argv) == 0
    assert capsys.readouterr().out == first
    assert generate.main([*argv, "--seed", "8"]) == 0
    assert capsys.readouterr().out != first


def test_a_prompt_longer_than_the_context_is_noted_and_works(finished_run, capsys):
    assert generate.main(["--checkpoint", str(finished_run), "--prompt", "word " * 60, "--max-new-tokens", "3"]) == 0
    assert "note: the model sees the last 32 of the " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--checkpoint", "no/such/run"], "no/such/run is not there; python -m 04_gpt2.train makes such a folder"),
        (["--samples", "0"], "--samples is 0; at least 1"),
        (["--top-p", "2"], "--top-p is 2.0; above 0 and at most 1"),
        (["--temperature", "cold"], "argument --temperature: invalid float value: 'cold'"),
        (["--prompt", "\udcff"], "the prompt cannot be encoded: character 0 of the text is '\\udcff'"),
    ],
)
def test_wrong_use_gets_one_sentence(finished_run, capsys, argv, said):
    if "--checkpoint" not in argv:
        argv = ["--checkpoint", str(finished_run), *argv]
    assert generate.main(argv) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {said}") and err.count("\n") == 1 and out == ""


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "a prompt is empty"), ([3, 999], "holds the id 999"), ([-1], "the id -1")]
)
def test_a_prompt_without_ids_or_with_strange_ones_is_refused(prompt, message):
    net = model.GPT(config.GPTConfig(block_size=8, vocab_size=290, n_layer=1, n_head=2, n_embd=16))
    with pytest.raises(ValueError, match=rf"{message}; at least one id from 0 to 289 is expected"):
        generate.sample(net, [[1], prompt], TOKENIZER, generate.Sampling(2), seed=0)


def test_a_special_token_in_the_prompt_is_noted_as_ordinary_text(finished_run, capsys):
    assert generate.main(["--checkpoint", str(finished_run), "--prompt", "a<|endoftext|>", "--max-new-tokens", "1"]) == 0
    assert capsys.readouterr().err.startswith("note: <|endoftext|> in the text is read as ordinary characters")


def test_a_checkpoint_and_a_published_model_are_not_opened_by_each_others_flag(finished_run, tmp_path, capsys):
    folder = tmp_path / "hf"
    assert import_module("04_gpt2.pretrained").main(["export", "--checkpoint", str(finished_run), "--to", str(folder)]) == 0
    for argv, message in (
        (["--checkpoint", str(folder)], "an exported or published model is opened by --pretrained"),
        (["--pretrained", str(finished_run)], "a run of this project is opened by --checkpoint, or exported first"),
        (["--pretrained", str(folder), "--checkpoint", str(finished_run)], "--checkpoint and --pretrained both name a model"),
    ):
        assert generate.main(argv) == 2
        assert message in capsys.readouterr().err
