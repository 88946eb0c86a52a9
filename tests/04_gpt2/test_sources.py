"""Documents as they were written, from folders, texts and a server that answers as the hub does; what is refused."""

import gzip
import io
import json
import random
import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import corpora
from shared.cli import RunError, UsageError

from .hub_server import serving

doc = import_module("04_gpt2.documents")
sources = import_module("04_gpt2.sources")
ROOT = Path(__file__).parents[2]
MIB = 2**20

COLUMNS = ("text", "id", "dump", "url", "file_path", "language", "language_score", "token_count", "score", "int_score")
CARD = b"""---
license: odc-by
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
- config_name: sample-100BT
  data_files:
  - split: train
    path: sample/100BT/*
---
# FineWeb-Edu
"""

OPEN = """
import json, sys, time
time.sleep = lambda seconds: None  # the hub's library waits between its attempts
from importlib import import_module
doc = import_module("04_gpt2.documents")
sources = import_module("04_gpt2.sources")
for arguments in json.loads(sys.stdin.read()):
    told = {}
    try:
        source = sources.open_source(**arguments)
        found = [
            document
            for piece in doc.pieces(source, range(len(source.files)), 0)
            for document in doc.texts_of(piece, source.files[piece.file], source.json_column)
        ]
        told = {"documents": found, "description": source.description}
    except Exception as error:
        told = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(told), flush=True)
"""
COMMANDS = """
import json, sys, time
time.sleep = lambda seconds: None
from importlib import import_module
data = import_module("04_gpt2.data")
print(json.dumps([data.main([*argv, "--workers", "1", "--quiet"]) for argv in json.loads(sys.stdin.read())]))
"""


def words(n):
    """That many words, like no others."""
    return " ".join(f"{random.getrandbits(24):x}" for _ in range(n))


def parquet(texts, text_type="string", row_group_size=None):
    """A file with the columns of FineWeb-Edu, as bytes."""
    n = len(texts)
    values = {name: pa.array([f"{name} {i}" for i in range(n)], pa.string()) for name in COLUMNS}
    values |= {name: pa.array([1.5] * n, pa.float64()) for name in ("language_score", "score")}
    values |= {name: pa.array(range(n), pa.int64()) for name in ("token_count", "int_score")}
    file = io.BytesIO()
    pq.write_table(pa.table(values | {"text": pa.array(texts, text_type)}), file, row_group_size=row_group_size)
    return file.getvalue()


def lines(texts, column="text", end="\n", **others):
    """JSON lines, as bytes."""
    return b"".join((json.dumps({"before": 1, column: text, **others}) + end).encode() for text in texts)


def write(folder, files):
    """Fill the folder with files that are given as bytes by name."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def rows_of(source, files=None, row=0):
    """All that `pieces` gives, as (file, row, document)."""
    for piece in doc.pieces(source, files or range(len(source.files)), row):
        documents = doc.texts_of(piece, source.files[piece.file], source.json_column)
        yield from ((piece.file, piece.first_row + i, document) for i, document in enumerate(documents))


def documents(path, **arguments):
    source = sources.open_source(str(path), **arguments)
    return [document for _, _, document in rows_of(source)]


def refusal(path, **arguments):
    """The one line that reading the source ends with."""
    with pytest.raises((UsageError, RunError)) as caught:
        documents(path, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text_type", ["string", "large_string"])
def test_a_folder_of_parquet_gives_its_texts_file_after_file(tmp_path, text_type):
    texts = [[words(random.randrange(1, 9)) for _ in range(random.randrange(1, 700))] for _ in range(4)]
    texts[1][random.randrange(len(texts[1]))] = None
    texts[2].insert(0, "")
    names = ["CC-MAIN-2013/000.parquet", "CC-MAIN-2013/001.parquet", "CC-MAIN-2024/000.parquet", "x/y/z.parquet"]
    written = {
        name: parquet(part, text_type, random.choice([None, 1, 7, 300])) for name, part in zip(names, texts, strict=True)
    }
    hidden = {".cache/huggingface/0.parquet": parquet(["hidden"]), "CC-MAIN-2013/.0.parquet": b"", "README.md": CARD}
    folder = write(tmp_path / "edu", written | hidden)
    source = sources.open_source(str(folder))
    assert [Path(name).relative_to(folder).as_posix() for name in source.files] == names
    assert list(source.sizes) == [len(part) for part in texts]
    assert list(rows_of(source)) == [(f, row, text) for f, part in enumerate(texts) for row, text in enumerate(part)]
    assert list(rows_of(sources.open_source(str(folder)))) == list(rows_of(source))
    assert documents(folder / names[2]) == texts[2]
    assert documents(folder, column="url") == [f"url {i}" for part in texts for i in range(len(part))]


def test_files_of_one_folder_need_only_the_column_of_texts_in_common(tmp_path):
    tables = [{"text": ["a"], "n": [1]}, {"n": ["one"], "text": ["b"]}, {"text": ["c"]}, {"text": ["d"], "more": [[1.5]]}]
    for i, table in enumerate(tables):
        pq.write_table(pa.table(table), tmp_path / f"{i}.parquet")
    assert documents(tmp_path) == ["a", "b", "c", "d"]


def test_texts_may_be_in_a_dictionary_and_files_without_rows_or_texts_need_no_type(tmp_path):
    columns = [pa.nulls(0), pa.array(["a", "b", "a"]).dictionary_encode(), pa.nulls(2), pa.array(["c"])]
    for i, column in enumerate(columns):
        pq.write_table(pa.table({"text": column}), tmp_path / f"{i}.parquet")
    assert documents(tmp_path) == ["a", "b", "a", None, None, "c"]


@pytest.mark.parametrize("name", ["a [v2] of 3/{x}*?.parquet", "a [v2] of 3/100% #1.jsonl", "50% é/~.jsonl"])
def test_a_folder_and_a_file_may_have_any_name(tmp_path, name):
    folder = write(tmp_path, {name: lines(["a", "b"]) if name.endswith("jsonl") else parquet(["a", "b"])})
    assert documents(folder / Path(name).parent) == documents(folder / name) == ["a", "b"]


def test_a_name_in_brackets_means_no_other_file(tmp_path):
    for i, names in enumerate([("a1", "a[1]"), ("a*", "ab"), ("a?", "ab", "ac")]):
        texts = list(names)
        write(tmp_path, {f"lines {i}/{name}.jsonl": lines([name]) for name in names})
        assert documents(tmp_path / f"lines {i}") == texts
        write(tmp_path, {f"tables {i}/{name}.parquet": parquet([name]) for name in names})
        assert documents(tmp_path / f"tables {i}") == texts


@pytest.mark.parametrize(("ending", "pack"), [(".jsonl", bytes), (".json", bytes), (".jsonl.gz", gzip.compress)])
def test_a_folder_of_json_lines_gives_its_texts_file_after_file(tmp_path, ending, pack):
    texts = [[words(random.randrange(1, 9)) for _ in range(random.randrange(1, 700))] for _ in range(3)]
    names = [f"a/0{ending}", f"a/1{ending}", f"b/0{ending}"]
    written = {name: pack(lines(part)) for name, part in zip(names, texts, strict=True)}
    folder = write(tmp_path, written | {f".cache/0{ending}": b"{", "notes.txt": b"not these"})
    source = sources.open_source(str(folder))
    assert [Path(name).relative_to(folder).as_posix() for name in source.files] == names
    assert list(rows_of(source)) == [(f, row, text) for f, part in enumerate(texts) for row, text in enumerate(part)]
    assert documents(folder / names[1]) == texts[1]
    if pack is bytes:
        assert list(source.sizes) == [len(content) for content in written.values()]


def test_zstandard_is_read_where_its_package_is_installed_and_else_refused(tmp_path):
    write(tmp_path, {"0.jsonl.zst": pa.compress(lines(["a", "b"]), "zstd", asbytes=True)})
    if find_spec("zstandard"):
        assert documents(tmp_path) == ["a", "b"]
    else:
        assert re.search(r"0\.jsonl\.zst cannot be .*zst", refusal(tmp_path))


def test_columns_that_differ_from_file_to_file_are_no_matter(tmp_path):
    """As in the sample of RedPajama: `meta` is a dictionary, another one, a text, or not there."""
    kinds = {"arxiv": {"meta": {"timestamp": "2023", "n": 1}}, "book": {"meta": {"short_book_title": "x"}, "red_pajama": [1]}}
    kinds |= {"c4": {"meta": '{"a": 1}'}, "github": {}, "wikipedia": {"meta": None}}
    texts = {kind: [f"{kind} {i}" for i in range(random.randrange(1, 300))] for kind in kinds}
    write(tmp_path, {f"{kind}_sample.jsonl": lines(texts[kind], **others) for kind, others in kinds.items()})
    assert documents(tmp_path) == list(chain.from_iterable(texts.values()))


@given(st.lists(st.text(st.characters(codec=None), max_size=20)), st.sampled_from(["\n", "\r\n"]), st.data())
@settings(max_examples=40)
def test_every_character_arrives_whatever_the_ends_of_lines(tmp_path_factory, texts, end, data):
    """Half of a surrogate pair is no character: U+FFFD stands for it."""
    path = tmp_path_factory.mktemp("lines") / "0.jsonl"
    written, expected = "", []
    for text in [*texts, "\u2028\u2029\x85\x0b\x0c\x1c\x00\r\n\n", "\ud800 \ud83d\ude00 \ude00"]:
        written += (
            data.draw(st.sampled_from(["", end])) + json.dumps({"text": text}, ensure_ascii=not text.isprintable()) + end
        )
        pairs_joined = json.loads(json.dumps(text))
        expected.append(re.sub("[\ud800-\udfff]", "\ufffd", pairs_joined))
    raw = '{"text": "\u2028 \u2029 \x85 \x7f"}'  # as they are, unescaped
    path.write_bytes((written + raw).encode())
    found = documents(path)
    assert [text for text in found if text] == [text for text in [*expected, "\u2028 \u2029 \x85 \x7f"] if text]
    assert len(found) == written.count(end) + 1  # a line without a text counts as a row


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    files = {"0.jsonl": b"\xef\xbb\xbf" + lines(["a", "b"]), "1.jsonl": b"\xef\xbb\xbf" + lines(["\ufeffc"])}
    assert documents(write(tmp_path, files)) == ["a", "b", "\ufeffc"]


def test_a_line_of_spaces_holds_no_document(tmp_path):
    found = documents(write(tmp_path, {"0.jsonl": lines(["a"]) + b"  \t\n" + lines(["b"])}))
    assert [text for text in found if text and text.strip()] == ["a", "b"]


@given(
    st.lists(
        st.one_of(
            st.text("ab", max_size=90),
            st.just(""),
            st.just(" \t"),
            st.builds("x".__mul__, st.sampled_from([2500, 7999, 33_000])),
        ),
        max_size=60,
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_text_is_cut_at_blank_lines_and_joined_it_is_the_text(pieces, end):
    given_lines = [piece + end for piece in pieces]
    cut = list(doc.cut_into_documents(given_lines))
    assert "".join(cut) == "".join(given_lines) and "" not in cut
    for document in cut[:-1]:
        *before, last = document.splitlines(keepends=True)
        assert len(document) >= (32_000 if last.strip() else 8000)
        size = 0
        for line in before:  # none of the lines before was a place to cut
            size += len(line)
            assert size < (32_000 if line.strip() else 8000)


def test_a_text_file_is_its_documents_joined(tmp_path):
    parts = [
        words(random.randrange(1, 60)) + random.choice(["\n", "\n\n", "\r\n\r\n", "\n \n", "é\u2028\n"]) for _ in range(900)
    ]
    parts.insert(random.randrange(len(parts)), "long " * 600_000)  # a line of 3 MB
    text = "".join(parts)
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = documents(path)
    assert "".join(found) == text and all(len(document) >= 8000 for document in found[:-1])
    assert max(map(len, found)) < MIB + 40_000  # no line is read beyond a megabyte
    described = sources.open_source(str(path)).description
    path.write_bytes((text + ".").encode())
    assert sources.open_source(str(path)).description != described


def test_the_plays_are_37_files(tmp_path, monkeypatch):
    (tmp_path / "shakespeare").mkdir()
    monkeypatch.chdir(tmp_path)  # the name means the plays, whatever lies here
    source = sources.open_source("shakespeare")
    found = [""] * len(source.files)
    for file, _, document in rows_of(source):
        found[file] += document
    assert dict(zip(source.files, found, strict=True)) == corpora.plays() and len(found) == 37


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Sources whose rows have every size, each with (file, row, document) of all its rows."""
    folder = tmp_path_factory.mktemp("mixed")
    texts = [[words(1 if row % 3 else 40) for row in range(n)] for n in (700, 1, 300)]
    texts[0][5:9] = ["", None, words(3) * 150_000, ""]  # the third of them is some 3 MB
    texts[2][255:258] = ["é" * MIB, "", "x" * MIB]
    for row in range(0, 250):
        texts[2][row] = words(1000)
    tables, jsonl = folder / "tables", folder / "lines"
    write(tables, {f"{i}.parquet": parquet(part, row_group_size=[None, 1, 100][i]) for i, part in enumerate(texts)})
    write(jsonl, {f"{i}.jsonl": lines(part) for i, part in enumerate(texts)})
    expected = [(file, row, text) for file, part in enumerate(texts) for row, text in enumerate(part)]
    (folder / "text.txt").write_text("\n\n".join(words(900) for _ in range(60)))
    text = sources.open_source(str(folder / "text.txt"))
    cut = doc.cut_into_documents(io.StringIO((folder / "text.txt").read_text()))
    return [
        (sources.open_source(str(tables)), expected),
        (sources.open_source(str(jsonl)), expected),
        (text, [(0, row, document) for row, document in enumerate(cut)]),
    ]


@given(st.data())
@settings(max_examples=40)
def test_from_any_row_on_exactly_the_rows_that_follow_are_given(mixed, data):
    source, expected = data.draw(st.sampled_from(mixed))
    first, row, _ = data.draw(st.sampled_from(expected))
    stop = data.draw(st.integers(first + 1, len(source.files)))
    assert list(rows_of(source, range(first, stop), row)) == [
        each for each in expected if (first, row) <= each[:2] and each[0] < stop
    ]


def test_a_piece_is_a_mebibyte_of_text_or_one_row(mixed):
    for source, expected in mixed:
        found = list(doc.pieces(source, range(len(source.files)), 0))
        sizes = [sum(len((text or "").encode()) for text in piece.rows.to_pylist()) for piece in found]
        assert max(size for size, piece in zip(sizes, found, strict=True) if len(piece.rows) > 1) <= MIB
        assert len(found) <= 3 * (sum(sizes) / MIB + len(source.files))  # nor much less
        assert all(piece.next_row == piece.first_row + len(piece.rows) for piece in found)
        assert sum(len(piece.rows) for piece in found) == len(expected)


def test_the_description_tells_a_folder_that_has_changed_from_one_that_was_moved(tmp_path):
    def describe(folder):
        return sources.open_source(str(folder)).description

    folder = write(tmp_path / "here" / "mine", {f"{i}/0.jsonl": lines([f"text {i}"]) for i in range(3)})
    described = describe(folder)
    moved = shutil.copytree(folder, tmp_path / "there" / "mine")
    assert describe(moved) == describe(f"{moved}/") == described
    write(moved, {".cache/0.jsonl": b"", "README.md": b"neither counts"})
    assert describe(moved) == described
    differing = [described]
    write(moved, {"1/0.jsonl": lines(["text 1 "])})
    differing.append(describe(moved))
    write(moved, {"1/0.jsonl": lines(["text 1"]), "1/1.jsonl": b""})
    differing.append(describe(moved))
    (moved / "1" / "1.jsonl").unlink()
    (moved / "1" / "0.jsonl").rename(moved / "1" / "9.jsonl")
    differing.append(describe(moved))
    differing.append(sources.open_source(str(folder), column="before").description)
    assert len({json.dumps(each) for each in differing}) == len(differing)


def test_what_a_folder_cannot_give_is_one_sentence(tmp_path):
    write(tmp_path, {"table/0.parquet": parquet(["a"]), "both/0.parquet": parquet(["a"]), "both/0.jsonl": lines(["a"])})
    write(tmp_path, {"broken/0.parquet": parquet(["a"]), "broken/1.parquet": parquet(["a"])[:-9], "none/a.csv": b""})
    assert refusal(tmp_path / "none").startswith(f"{tmp_path}/none holds no file that ends in .parquet, .jsonl")
    assert "both parquet files and JSON lines" in refusal(tmp_path / "both")
    assert re.search(r"broken/1\.parquet is not a parquet file: ", refusal(tmp_path / "broken"))
    assert "table/0.parquet has no column texts; it has text, id, dump, url" in refusal(tmp_path / "table", column="texts")
    assert re.search(r"the column score of \S+/0.parquet holds double, and text", refusal(tmp_path / "table", column="score"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(["a"] * 7) + b'{"text": "b"\n', r"line 8 of \S+0\.jsonl is not JSON"),
        (
            b'[{"text": "a"}]\n',
            r"line 1 of \S+0\.jsonl is \[{'text': 'a'}\], and an object with a value called text is expected",
        ),
        (lines(["a"]) + b'"text"\n', r"line 2 of \S+0\.jsonl is 'text', and an object with a value called text is expected"),
        (
            lines(["a"]) + lines(["a"], column="body", url=""),
            r"line 2 of .* value called text; it has before, body, url; give",
        ),
        (lines([3]), r"line 1 of .* has 3 as its text, and a text is expected"),
        (lines([["a"]]), r"line 1 of .* has \['a'\] as its text, and a text is expected"),
        (b'{"text": "a", "deep": ' + b"[" * 99_999 + b"]" * 99_999 + b"}\n", r"line 1 of \S+0\.jsonl is not JSON"),
        (b'{"text": "caf\xe9"}\n', r"0\.jsonl cannot be .*0xe9"),
        (lines(["a"] * 500) + b'{"text": "caf\xe9"}\n', r"0\.jsonl cannot be .*0xe9"),
        (b"", r"(0\.jsonl|folder) (is empty|holds no)"),
    ],
)
def test_what_is_not_a_line_of_json_with_a_text_is_one_sentence(tmp_path, content, message):
    assert re.search(message, refusal(write(tmp_path / "folder", {"0.jsonl": content})))


@pytest.mark.parametrize("damage", [lambda packed: packed[:-200], lambda packed: b"no" + packed], ids=["cut off", "altered"])
def test_a_packed_file_that_is_damaged_is_refused_by_name(tmp_path, damage):
    packed = damage(gzip.compress(lines([words(20) for _ in range(500)])))
    assert "1.jsonl.gz" in refusal(write(tmp_path, {"0.jsonl.gz": gzip.compress(lines(["a"])), "1.jsonl.gz": packed}))
    assert "1.jsonl.gz" in refusal(tmp_path / "1.jsonl.gz")


def test_a_file_that_is_gone_when_its_turn_comes_is_named(tmp_path):
    write(tmp_path, {"0.parquet": parquet(["a"]), "1.parquet": parquet(["b"])})
    source = sources.open_source(str(tmp_path))
    (tmp_path / "1.parquet").unlink()
    with pytest.raises(
        RunError, match=r"1\.parquet cannot be read beyond row 0: .*finished shards stay, and the same command"
    ):
        list(rows_of(source))


def edu(n_files=2, n_rows=300):
    """A data set that is laid out as FineWeb-Edu, and the texts of its subset sample-10BT."""
    texts = [words(random.randrange(1, 60)) for _ in range(n_files * n_rows)]
    files = {f"sample/10BT/{i:03}_00000.parquet": parquet(texts[i * n_rows :][:n_rows]) for i in range(n_files)}
    others = {"data/CC-MAIN-2013-20/0.parquet": parquet(["all"]), "sample/100BT/0.parquet": parquet(["more"])}
    return {"README.md": CARD} | others | files, texts


def test_a_folder_laid_out_as_the_hub_is_opened_by_subset(tmp_path):
    files, texts = edu()
    folder = write(tmp_path / "fineweb-edu", files)
    assert documents(folder, subset="sample-10BT") == texts
    assert documents(folder, subset="default") == ["all"] and documents(folder, subset="sample-100BT") == ["more"]
    assert documents(folder / "sample" / "10BT") == texts
    assert documents(folder, subset="sample-10BT", column="id")[:2] == ["id 0", "id 1"]
    assert "sample-350BT" in refusal(folder, subset="sample-350BT")
    assert "test" in refusal(folder, subset="sample-10BT", split="test")
    subsets = ("default", "sample-10BT", "sample-100BT", "")
    described = [json.dumps(sources.open_source(str(folder), subset=subset).description) for subset in subsets]
    assert len(set(described)) == 4


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server, and an environment in which programs take it for the hub and keep a cache of their own."""
    with serving() as server:
        be_the_hub(server, tmp_path / "home", monkeypatch)
        yield server


def be_the_hub(server, home, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("USE_TORCH", "0")  # the library datasets then does without it, which saves seconds
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def run(program, content):
    """What the program prints when it reads `content` -> its lines, and all that is on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(content), capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def open_all(*arguments):
    """For each set of arguments what open_source and pieces give in another process: documents and description, or error."""
    return run(OPEN, arguments)[0]


def commands(*argvs):
    """The exit statuses of these commands, which one process gives one after the other, and what they say."""
    [statuses], said = run(COMMANDS, argvs)
    return statuses, said


def decoded(folder):
    """The training documents of prepared shards."""
    encoding = import_module("04_gpt2.tokenizer").gpt2_tokenizer().tiktoken_encoding
    tokens = np.concatenate([np.fromfile(path, "<u2", offset=1024) for path in sorted(folder.glob("train_*.bin"))])
    starts = np.flatnonzero(tokens == 50256)
    assert starts[0] == 0
    return [encoding.decode(document[1:].tolist()) for document in np.split(tokens, starts[1:])]


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.bin")}


def test_a_local_folder_asks_the_hub_nothing(hub, tmp_path):
    files, texts = edu(n_rows=3)
    hub.publish("datasets/HuggingFaceFW/fineweb-edu", files)
    folder = write(tmp_path / "fineweb-edu", files)
    write(tmp_path, {"lines/0.jsonl": lines(["a"]), "text.txt": b"text"})
    opened = open_all(
        {"name": f"{folder}/sample/10BT"},
        {"name": str(folder), "subset": "sample-10BT"},
        {"name": f"{tmp_path}/lines"},
        {"name": f"{tmp_path}/text.txt"},
        {"name": f"{folder}/sample/10BT/000_00000.parquet"},
        {"name": str(folder), "subset": "none"},
        {"name": "shakespeare"},
    )
    assert [len(each["documents"]) for each in opened[:5]] == [6, 6, 1, 1, 3] and "none" in opened[5]["error"]
    assert opened[0]["documents"] == texts and not hub.asked


def test_fineweb_edu_is_streamed_downloaded_and_read_without_a_network(hub, tmp_path, monkeypatch):
    files, texts = edu()
    repository = hub.publish("datasets/HuggingFaceFW/fineweb-edu", files)
    command = ["--source", "fineweb-edu", "--val-share", "0", "--shard-tokens", "5000"]
    streamed, downloaded, offline = (tmp_path / name for name in ("streamed", "downloaded", "offline"))
    assert commands([*command, "--to", str(streamed)], [*command, "--to", str(downloaded), "--download"]) == ([0, 0], "")
    assert decoded(streamed) == texts
    described = json.loads((streamed / "manifest.json").read_text())["settings"]["source"]
    assert (described["revision"], described["subset"]) == (repository.branches["main"], "sample-10BT")
    assert not any(re.search("data/CC-MAIN|100BT/", request) for request in hub.asked)  # but for the list of folders
    assert shards(downloaded) == shards(streamed) and len(shards(streamed)) > 1
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert commands([*command, "--to", str(offline), "--download"]) == ([0], "")
    assert shards(offline) == shards(streamed) and not hub.asked


def table(texts):
    """Parquet with texts in a column w and numbers in n."""
    file = io.BytesIO()
    pq.write_table(pa.table({"w": texts, "n": list(range(len(texts)))}), file)
    return file.getvalue()


OF_SET = {"name": "some/set", "subset": "x", "split": "y", "column": "w"}
SAMPLE = {kind: [f"{kind} {i}" for i in range(300)] for kind in ("arxiv", "book", "c4")}
REFUSED = {
    "UsageError: there is no file or folder no/body here and no public data set of that name on": {"name": "no/body"},
    "UsageError: runs/a/b is not there, and it is no name of a data set on": {"name": "runs/a/b"},
    "UsageError: the data set some/set on .* has no revision nope": OF_SET | {"revision": "nope"},
    r"UsageError: some/set cannot be opened .*'nope' not found. Available: \['x', 'other'\]": OF_SET | {"subset": "nope"},
    r"UsageError: some/set cannot be opened .*nope.*\['train', 'y'\]": OF_SET | {"split": "nope"},
    "UsageError: some/set has no column text; it has w, n; give one of them by --column": OF_SET | {"column": "text"},
    "UsageError: the column n of some/set holds .*, and text is expected": OF_SET | {"column": "n"},
    "UsageError: some/gated .*gated": {"name": "some/gated"},
    "UsageError: some/script cannot be opened .*scripts are no longer supported": {"name": "some/script"},
    "UsageError: some/scripts cannot be opened": {"name": "some/scripts"},
    "UsageError: some/nothing cannot be opened": {"name": "some/nothing"},
    "RunError: .*some/broken": {"name": "some/broken"},
    "(UsageError|RunError): .*some/broken ": {"name": "some/broken", "download": True},
}
OPENED = [
    *({**OF_SET, "download": download, "revision": revision} for download in (False, True) for revision in ("z", "")),
    *({"name": "some/set", "subset": "other", "column": "w", "download": download} for download in (False, True)),
    *({"name": "some/lines", "download": download} for download in (False, True)),
    *({"name": "redpajama", "download": download} for download in (False, True)),
]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """What is said of data sets of many kinds: those of OPENED with a network, then those downloaded without one, and those
    of REFUSED; and the repositories."""
    card = b"""---
configs:
- config_name: x
  data_files: [{split: train, path: x/train*}, {split: y, path: x/y*}]
- config_name: other
  data_files: other/*
---
"""
    metas = {"arxiv": {"meta": {"a": 1}}, "book": {"meta": "text", "more": []}, "c4": {}}
    sample = {f"{kind}_sample.jsonl": lines(texts, **metas[kind]) for kind, texts in SAMPLE.items()}
    others = {"README.md": b"", "RedPajama-Data-1T-Sample.py": b"raise SystemExit", "urls.jsonl": lines(["none of them"])}
    files = {"x/train.parquet": table(["t"]), "x/y-0.parquet": table(["a", "b"]), "x/y-1.parquet": table(["c"])}
    with serving() as hub, pytest.MonkeyPatch.context() as monkeypatch:
        be_the_hub(hub, tmp_path_factory.mktemp("home"), monkeypatch)
        some = hub.publish("datasets/some/set", {"README.md": card, "other/0.parquet": table(["o"])} | files)
        some.commit({"README.md": card, **files, "x/y-1.parquet": table(["z"])}, branch="z")
        hub.publish("datasets/togethercomputer/RedPajama-Data-1T-Sample", sample | others)
        hub.publish("datasets/some/lines", {"data/0.jsonl": lines(["a", None]), "data/1.jsonl": lines(["b"])})
        hub.publish("datasets/some/script", {"README.md": b"# s", "script.py": b"raise SystemExit"})
        hub.publish("datasets/some/scripts", {"loading.py": b"raise SystemExit"})
        hub.publish("datasets/some/gated", {"0.jsonl": lines(["a"])}).gated = True
        hub.publish("datasets/some/nothing", {})
        hub.publish("datasets/some/broken", {"0.parquet": parquet(["a"])})
        hub.fault = lambda request: "broken" if "some/broken/resolve" in request and "parquet" in request else ""
        told = open_all(*OPENED, *REFUSED.values())
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        hub.asked.clear()
        offline = open_all(*(arguments for arguments in OPENED if arguments.get("download")))
        assert not hub.asked
        yield told[: len(OPENED)], offline, told[len(OPENED) :], hub.repositories


def test_any_data_set_is_read_by_subset_split_revision_and_column(published):
    opened, _, _, repositories = published
    everything = list(chain.from_iterable(SAMPLE.values()))
    expected = [["a", "b", "z"], ["a", "b", "c"]] * 2 + [["o"]] * 2 + [["a", None, "b"]] * 2 + [everything] * 2
    assert [each.get("documents", each) for each in opened] == expected
    branches = repositories["datasets/some/set"].branches
    assert opened[0]["description"] == OF_SET | {"revision": branches["z"], "downloaded": False}
    assert opened[1]["description"] == OF_SET | {"revision": branches["main"], "downloaded": False}
    assert opened[2]["description"] == OF_SET | {"revision": branches["z"], "downloaded": True}
    branches = repositories["datasets/togethercomputer/RedPajama-Data-1T-Sample"].branches
    assert all(each["description"]["revision"] == branches["main"] for each in opened[-2:])


def test_without_a_network_the_cache_gives_the_revision_that_is_meant_or_a_sentence(published):
    """Never another revision's documents, and the same description, so that a preparation can go on."""
    opened, offline, _, _ = published
    online = [told for told, arguments in zip(opened, OPENED, strict=True) if arguments.get("download")]
    for before, now in zip(online, offline, strict=True):
        assert now.get("documents", before["documents"]) == before["documents"]
        assert now == before or re.match("(UsageError|RunError|UnreachableError): ", now.get("error", "")), (before, now)
    assert any("documents" in told for told in offline)


@pytest.mark.parametrize("expected", REFUSED)
def test_what_the_hub_cannot_give_is_one_sentence(published, expected):
    _, _, refused, _ = published
    said = refused[list(REFUSED).index(expected)]["error"]
    assert re.match(expected, said) and "\n" not in said


def test_a_server_that_stops_within_a_file_leaves_finished_shards_and_the_same_command_goes_on(hub, tmp_path):
    texts = [words(20) for _ in range(1100)]
    padding = "x" * 25_000  # beside the text, because files are fetched 5 MB and more at a time
    repository = hub.publish(
        "datasets/togethercomputer/RedPajama-Data-1T-Sample",
        {"arxiv_sample.jsonl": lines(texts[:1000], meta=padding), "book_sample.jsonl": lines(texts[1000:])},
    )
    first, folder = repository.branches["main"], tmp_path / "data"
    command = ["--source", "redpajama", "--to", str(folder), "--val-share", "0", "--shard-tokens", "500"]
    refused = []

    def stop(request):
        if not re.search("GET .*arxiv_sample.jsonl bytes=[1-9]", request):
            return ""
        refused.append(request)
        return "cut" if len(refused) == 1 else "broken"

    hub.fault = stop

    statuses, said = commands(command)
    assert statuses == [1] and re.search("^error: .*cannot be read beyond row .* the same command goes on", said, re.MULTILINE)
    assert said.count("error: ") == 1 and said.endswith("when that is put right\n") and len(refused) > 1
    whole = {path.name: path.read_bytes() for path in folder.glob("train_??????.bin")}
    assert len(whole) > 2
    hub.fault = lambda request: ""
    repository.commit({"arxiv_sample.jsonl": lines(["another"])})
    statuses, said = commands(command, [*command, "--revision", first])
    assert statuses == [2, 0]
    assert f"revision was {first} and is {repository.branches['main']}" in said
    assert decoded(folder) == texts and shards(folder).items() > whole.items()


def test_a_server_that_is_not_there_is_one_sentence_that_names_the_folder_option(hub, tmp_path):
    hub.shutdown()
    hub.server_close()
    statuses, said = commands(
        ["--source", "fineweb-edu", "--to", str(tmp_path / "a")],
        ["--source", "redpajama", "--to", str(tmp_path / "b"), "--download"],
        ["--source", "some/set", "--to", str(tmp_path / "c"), "--revision", "main"],
    )
    assert statuses == [1, 1, 1] and not any((tmp_path / name).exists() for name in "abc")
    told = said.splitlines()
    assert len(told) == 3 and all(f"{hub.url} does not answer (" in line and "--source FOLDER" in line for line in told)


@pytest.mark.parametrize(
    ("name", "means_nothing"),
    [
        ("shakespeare", {"column": "body"}),
        ("text.txt", {"split": "test"}),
        ("lines", {"download": True}),
        ("lines", {"revision": "v9"}),
        ("lines", {"split": "test"}),
        ("redpajama", {"subset": "arxiv"}),
    ],
)
def test_a_flag_that_means_nothing_for_a_source_is_refused(tmp_path, monkeypatch, name, means_nothing):
    """Someone who asks for a split of a folder would otherwise train on all of it."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"lines/0.jsonl": lines(["a"]), "text.txt": b"text"})
    [flag] = means_nothing
    with pytest.raises(UsageError, match=f"--{flag} means nothing for --source {name}"):
        sources.open_source(name, **means_nothing)


def test_a_path_that_the_library_takes_for_an_address_is_refused(tmp_path):
    with pytest.raises(UsageError, match="whose name holds ::"):
        sources.open_source(str(write(tmp_path / "a::b", {"0.jsonl": lines(["a"])})))
