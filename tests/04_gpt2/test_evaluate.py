"""Validation against a plain computation, bits per byte, words, and the picture of a run."""

import json
import math
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.image import imread

from shared import ngrams

bpe = import_module("04_gpt2.bpe")
config = import_module("04_gpt2.config")
data = import_module("04_gpt2.token_data")
evaluate = import_module("04_gpt2.evaluate")
model = import_module("04_gpt2.model")

TOKENIZER = bpe.BytePairTokenizer.train("the cat sat on the mat, the cat sat on the hat " * 5, 270)


@pytest.fixture(scope="module")
def gpt():
    return model.GPT(config.GPTConfig(block_size=7, vocab_size=272, n_layer=1, n_head=2, n_embd=16, dropout=0.3))


def tokens_of(text):
    return np.array([269, *TOKENIZER.encode(text)], dtype=np.uint16)


@pytest.mark.parametrize("n_tokens", [1, 6, 7, 8, 14, 15, 40])
def test_every_token_is_scored_once_in_windows_that_do_not_overlap(gpt, n_tokens):
    tokens = np.random.default_rng().integers(0, 269, n_tokens + 1).astype(np.uint16)
    nats = 0.0
    gpt.eval()
    for start in range(0, n_tokens, 7):  # the same, a token at a time
        window = torch.from_numpy(tokens[start : start + 8].astype(np.int64))
        for t in range(1, len(window)):
            logits = gpt(window[None, :t])
            nats += F.cross_entropy(logits[0, -1], window[t]).item()
    result = evaluate.score(gpt, tokens, TOKENIZER)
    assert result.n_tokens == n_tokens
    assert result.nats_per_token == pytest.approx(nats / n_tokens, rel=1e-5)
    assert result.n_bytes == len(b"".join(TOKENIZER.token_bytes(i) for i in tokens[1:]))
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / result.n_bytes, rel=1e-5)


def test_the_score_depends_on_neither_the_rows_at_a_time_nor_the_mode_of_the_model(gpt):
    tokens = np.random.default_rng().integers(0, 269, 100).astype(np.uint16)
    gpt.train()
    scores = [evaluate.score(gpt, tokens, TOKENIZER, rows=rows).nats_per_token for rows in (1, 3, 50)]
    assert max(scores) - min(scores) < 1e-6
    assert gpt.training
    assert evaluate.score(gpt.eval(), tokens, TOKENIZER).nats_per_token == pytest.approx(scores[0], abs=1e-6)


def test_a_limit_scores_the_first_tokens(gpt):
    tokens = np.random.default_rng().integers(0, 269, 60).astype(np.uint16)
    assert evaluate.score(gpt, tokens, TOKENIZER, max_tokens=20) == evaluate.score(gpt, tokens[:21], TOKENIZER)
    assert evaluate.score(gpt, tokens, TOKENIZER, max_tokens=1000) == evaluate.score(gpt, tokens, TOKENIZER)


def test_bytes_are_those_of_the_text_and_the_end_of_text_marker_has_none(gpt):
    text = "the cat sat on déjà vu"
    assert evaluate.score(gpt, tokens_of(text), TOKENIZER).n_bytes == len(text.encode())
    assert evaluate.score(gpt, np.append(tokens_of(text), 269).astype(np.uint16), TOKENIZER).n_bytes == len(text.encode())


def test_a_uniform_model_has_the_entropy_of_its_vocabulary():
    gpt = model.GPT(config.GPTConfig(block_size=7, vocab_size=270, n_layer=1, n_head=1, n_embd=4))
    torch.nn.init.zeros_(gpt.lm_head.weight)
    assert evaluate.score(gpt, tokens_of("the cat"), TOKENIZER).nats_per_token == pytest.approx(math.log(270))


def test_words_and_their_share():
    assert evaluate.words("O, 'tis but Time's; over-night! 3 o'clock\nROMEO:") == (
        ["o", "tis", "but", "time's", "over", "night", "o'clock", "romeo"]
    )
    assert evaluate.known_word_share("To be or nott to bee", "TO BE, or not") == 4 / 6
    assert evaluate.known_word_share("", "To be") == evaluate.known_word_share("123", "To be") == 0


def test_the_picture_shows_both_curves(tmp_path):
    records = [{"step": 0, "val_loss": 5.0}, {"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}, {"step": 2, "val_loss": 4.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    evaluate.draw_loss(tmp_path)
    picture = imread(tmp_path / "loss.png")
    assert picture.shape[:2] == (450, 750)
    colours = {tuple(round(float(c), 2) for c in pixel[:3]) for pixel in picture.reshape(-1, picture.shape[-1])}
    assert (0.0, 0.45, 0.7) in colours and len(colours) > 20  # validation's blue, and more than an empty frame
    records += [{"step": 2, "counting_loss": 4.2}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    evaluate.draw_loss(tmp_path)
    assert not np.array_equal(imread(tmp_path / "loss.png"), picture)  # counting's line is there


def test_a_run_that_was_stopped_at_once_has_no_picture(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "val_loss": 5.0}\n')
    evaluate.draw_loss(tmp_path)
    assert not (tmp_path / "loss.png").exists()


def test_counting_is_scored_in_the_units_of_the_model():
    text = "the cat sat on the mat, " * 30
    prepared = data.prepare(text, "bpe", 270)
    of = evaluate.Score(3.0, 2.0, n_tokens=len(prepared.val) - 1, n_bytes=72)
    counted = evaluate.count_n_grams(text, of)
    train_part, val_part = text[:648].encode(), text[648:].encode()
    nats = -math.fsum(map(math.log, ngrams.probabilities(train_part, val_part)))
    assert counted.nats_per_token * counted.n_tokens == pytest.approx(nats)
    assert counted.bits_per_byte * 72 == pytest.approx(nats / math.log(2))
