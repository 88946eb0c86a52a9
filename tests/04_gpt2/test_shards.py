"""Token shards are llm.c's files to the byte, read as one array wherever they are cut; damaged ones are named."""

import json
import random
import struct
import subprocess
import sys
import tracemalloc
from importlib import import_module
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cli import UsageError

bpe = import_module("04_gpt2.bpe")
shards = import_module("04_gpt2.shards")
tokenizer = import_module("04_gpt2.tokenizer")
ShardWriter = import_module("04_gpt2.shard_writer").ShardWriter

ROOT = Path(__file__).parents[2]
VOCAB = 50257


def random_tokens(n, below=VOCAB):
    return np.random.default_rng().integers(below, size=n, dtype=np.uint16)


def write_as_llm_c(path, tokens, magic=20240520, version=1, count=None):
    """What write_datafile of llm.c's dev/data/data_common.py puts into a file, by struct alone."""
    numbers = [magic, version, len(tokens) if count is None else count, *[0] * 253]
    path.write_bytes(struct.pack("<256i", *numbers) + struct.pack(f"<{len(tokens)}H", *map(int, tokens)))
    return path


def read_as_llm_c(path):
    """As the loaders of llm.c and modded-nanogpt do: the header by itself, its three numbers checked, then uint16."""
    with path.open("rb") as file:
        header = np.frombuffer(file.read(256 * 4), dtype=np.int32)
        assert (header[0], header[1]) == (20240520, 1)
        tokens = np.frombuffer(file.read(), dtype=np.uint16)
    assert len(tokens) == header[2]
    return tokens


def test_a_file_that_llm_c_has_written_is_read(tmp_path):
    tokens = random_tokens(random.randrange(1, 5000))
    path = write_as_llm_c(tmp_path / "any.bin", tokens)
    assert shards.count_tokens(path) == len(tokens)
    np.testing.assert_array_equal(shards.Shards([path], VOCAB)[:], tokens)
    size = random.randrange(1, 700)
    pieces = list(shards.read_tokens(path, size))
    assert {len(piece) for piece in pieces[:-1]} <= {size}
    np.testing.assert_array_equal(np.concatenate(pieces), tokens)


def test_a_file_of_ours_is_read_by_llm_c_and_equal_to_the_byte(tmp_path):
    tokens = random_tokens(random.randrange(1, 5000))
    writer = ShardWriter(tmp_path, 10_000)
    writer.append("train", tokens)
    writer.finish()
    ours = tmp_path / "train_000000.bin"
    np.testing.assert_array_equal(read_as_llm_c(ours), tokens)
    assert ours.read_bytes() == write_as_llm_c(tmp_path / "theirs.bin", tokens).read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shards")


BOUND = st.none() | st.integers(-70, 70)


@given(st.lists(st.integers(0, 9), max_size=14), st.lists(st.tuples(BOUND, BOUND), min_size=1, max_size=20), st.booleans())
def test_shards_of_any_sizes_are_one_array(folder, sizes, slices, read_ahead):
    """Windows lie within a shard, cross one end or many, are open, negative, empty or upside down."""
    tokens = random_tokens(sum(sizes))
    ends = list(accumulate(sizes, initial=0))
    paths = [write_as_llm_c(folder / f"{i}.bin", tokens[a:b]) for i, (a, b) in enumerate(pairwise(ends))]
    joined = shards.Shards(paths, VOCAB, read_ahead)
    assert len(joined) == len(tokens) and joined.ends == ends[1:]
    for start, stop in [*slices, (None, None)]:
        found = joined[start:stop]
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, tokens[start:stop])


def reads_at_random(path):
    """Whether the system has been told not to read ahead in a mapped file: the flag rr among those of its mapping."""
    mappings = Path("/proc/self/smaps").read_text().partition(f" {path}\n")[2]
    return "rr" in mappings.partition("VmFlags:")[2].partition("\n")[0].split()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux shows what it was told of a mapping")
@pytest.mark.parametrize("read_ahead", [True, False])
def test_the_system_reads_ahead_only_if_asked(tmp_path, read_ahead):
    path = write_as_llm_c(tmp_path / "0.bin", random_tokens(9))
    read = shards.Shards([path], VOCAB, read_ahead)[2:5]
    assert len(read) == 3 and reads_at_random(path) is not read_ahead


def test_tokens_are_read_in_order_alone(tmp_path):
    joined = shards.Shards([write_as_llm_c(tmp_path / "0.bin", random_tokens(9))], VOCAB)
    for step in (-1, 2):
        with pytest.raises(ValueError, match=f"step 1, not {step}"):
            joined[::step]


def test_what_was_read_cannot_be_written_to(tmp_path):
    """It is the file itself, mapped into memory."""
    path = write_as_llm_c(tmp_path / "0.bin", random_tokens(9))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="read-only"):
        shards.Shards([path], VOCAB)[2:5][0] = 1
    assert path.read_bytes() == before


FEW_FILES = """
import resource, sys
from importlib import import_module
from pathlib import Path
import numpy as np
shards = import_module("04_gpt2.shards")
paths = sorted(Path(sys.argv[1]).iterdir())
limit = min(int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
joined = shards.Shards(paths, 50257)
for _ in range(2):
    assert (joined[:] == np.arange(3 * len(paths)) % 50257).all()
for at in np.random.default_rng().integers(3 * len(paths) - 5, size=2000):
    assert (joined[at : at + 5] == np.arange(at, at + 5)).all()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("limit", [1024, 256], ids=["Linux", "macOS"])
def test_there_may_be_more_shards_than_a_process_may_have_files_open(tmp_path, limit):
    """A shell's usual limits; FineWeb-Edu's hundred billion tokens are a thousand shards."""
    n_shards = 1100
    assert n_shards > limit
    for i in range(n_shards):
        write_as_llm_c(tmp_path / f"{i:06}.bin", range(3 * i, 3 * i + 3))
    command = [sys.executable, "-c", FEW_FILES, str(tmp_path), str(limit)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


def test_windows_of_a_large_shard_cost_no_memory_that_grows(tmp_path):
    """A sparse file of 2 GB takes no room on the disk; only the windows asked for are read."""
    n_tokens = 10**9
    path = tmp_path / "0.bin"
    with path.open("wb") as file:
        file.write(struct.pack("<256i", 20240520, 1, n_tokens, *[0] * 253))
        file.truncate(1024 + 2 * n_tokens)
    joined = shards.Shards([path], VOCAB)
    at = np.random.default_rng().integers(n_tokens - 1025, size=20_000).tolist()
    joined[at[0] : at[0] + 1025]
    tracemalloc.start()
    try:
        for start in at:
            assert not joined[start : start + 1025].any()
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def whole():
    return struct.pack("<256i", 20240520, 1, 5, *[0] * 253) + struct.pack("<5H", 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the header alone takes 1,024"),
        (b"\x08", "the header alone takes 1,024"),
        (whole()[:4], "the header alone takes 1,024"),
        (whole()[:8], "the header alone takes 1,024"),
        (whole()[:12], "the header alone takes 1,024"),
        (whole()[:511], "the header alone takes 1,024"),
        (whole()[:1020], "the header alone takes 1,024"),
        (whole()[:1023], "the header alone takes 1,024"),
        (whole()[:1024], "its header says 5 tokens, which take 1,034 bytes, and it has 1,024"),
        (whole()[:1025], "its header says 5 tokens, which take 1,034 bytes, and it has 1,025"),
        (whole()[:-1], "its header says 5 tokens, which take 1,034 bytes, and it has 1,033"),
        (whole() + b"\0", "its header says 5 tokens, which take 1,034 bytes, and it has 1,035"),
        (
            whole()[:8] + struct.pack("<i", 4) + whole()[12:],
            "its header says 4 tokens, which take 1,032 bytes, and it has 1,034",
        ),
        (whole()[:8] + struct.pack("<i", -1) + whole()[12:], "its header says -1 tokens"),
        ((whole()[:8] + struct.pack("<i", -6) + whole()[12:])[:1012], "the header alone takes 1,024"),
        (struct.pack("<i", 20240521) + whole()[4:], "begins with 20240521, not with the magic number 20240520"),
        (whole()[:4][::-1] + whole()[4:], "not with the magic number 20240520"),
        (whole()[:4] + struct.pack("<i", 2) + whole()[8:], r"version 2; version 1 \(uint16 tokens\) is expected"),
        (b"PK\x03\x04" * 400, "not with the magic number 20240520"),
        (b"just text\n", "the header alone takes 1,024"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else "",
)
def test_a_file_that_is_no_whole_shard_is_refused_by_name(tmp_path, content, reason):
    path = tmp_path / "train_7.bin"
    path.write_bytes(content)
    for use in (shards.count_tokens, lambda path: shards.Shards([path], VOCAB), lambda path: list(shards.read_tokens(path))):
        with pytest.raises(UsageError, match=reason) as raised:
            use(path)
        said = str(raised.value)
        assert said.startswith(f"{path} is ") and "\n" not in said
        assert "begins with 20240520" not in said, "the right magic number is no fault"


def test_a_shard_is_known_to_be_cut_off_wherever_that_is(tmp_path):
    path = tmp_path / "train_7.bin"
    for size in range(len(whole())):
        path.write_bytes(whole()[:size])
        with pytest.raises(UsageError, match=r"train_7\.bin is "):
            shards.count_tokens(path)
    path.write_bytes(whole())
    assert shards.count_tokens(path) == 5


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    (tmp_path / "0.bin").mkdir()
    said = {
        "0.bin": "is not a token shard: (Is a directory|Permission denied)",
        "1.bin": "is missing; fetch or prepare it again",
    }
    for name, reason in said.items():
        with pytest.raises(UsageError, match=rf"{name} {reason}"):
            shards.Shards([tmp_path / name], VOCAB)


def test_an_id_beyond_the_vocabulary_is_refused_with_its_shard_where_it_is_read(tmp_path):
    paths = [write_as_llm_c(tmp_path / f"{i}.bin", random_tokens(10, below=300)) for i in range(3)]
    write_as_llm_c(paths[1], [1, 2, 3, 300, 5, 6, 7, 8, 9, 10])
    joined = shards.Shards(paths, vocab_size=300)
    assert len(joined[:13]) == 13 and len(joined[14:]) == 16
    for start, stop in [(13, 14), (0, 30), (8, 15), (13, 25)]:
        with pytest.raises(
            UsageError, match=r"1\.bin holds the id 300, beyond the 300 ids of its tokenizer; fetch or prepare"
        ):
            joined[start:stop]
    assert len(shards.Shards(paths, vocab_size=301)[:]) == 30
    highest = write_as_llm_c(tmp_path / "3.bin", [65535])
    assert shards.Shards([highest], vocab_size=2**16)[:].tolist() == [65535]


def test_the_digest_of_shards_knows_their_names_sizes_and_own_digests(tmp_path):
    paths = [write_as_llm_c(tmp_path / f"{i}.bin", random_tokens(10)) for i in range(2)]
    paths.append(write_as_llm_c(tmp_path / "2.bin", random_tokens(11)))

    def digest(indices, sha256s=()):
        return shards.Shards([paths[i] for i in indices], VOCAB, sha256s=sha256s).sha256

    different = [
        digest(*case) for case in [([0, 1],), ([1, 0],), ([0, 2],), ([0],), ([0, 1], ["a", "b"]), ([0, 1], ["b", "a"])]
    ]
    assert len(set(different)) == len(different) and digest([0, 1]) == different[0]


SETTINGS = {"source": {"name": "x"}, "tokenizer": {"name": "gpt2", "vocab_size": VOCAB, "sha256": "ab"}, "val_share": 0.1}


@pytest.fixture
def prepared(tmp_path):
    """A folder with two shards to learn from, one to validate on and their manifest."""
    entries = []
    for name, n in {"train_000000.bin": 7, "train_000001.bin": 3, "val_000000.bin": 2}.items():
        write_as_llm_c(tmp_path / name, random_tokens(n))
        entries.append(shards.Entry(name, n, "0" * 64))
    shards.Manifest(SETTINGS, {"train": 5, "val": 1}, 2, tuple(entries)).save(tmp_path)
    return tmp_path


def test_a_manifest_is_read_as_it_was_saved_and_is_plain_json(prepared):
    manifest = shards.Manifest.load(prepared)
    assert (manifest.settings, manifest.documents, manifest.without_text) == (SETTINGS, {"train": 5, "val": 1}, 2)
    assert [entry.tokens for entry in manifest.of("train")] == [7, 3]
    assert [entry.name for entry in manifest.of("val")] == ["val_000000.bin"]
    content = json.loads((prepared / "manifest.json").read_text())
    assert content["shards"][1] == {"name": "train_000001.bin", "tokens": 3, "sha256": "0" * 64}
    before = (prepared / "manifest.json").read_bytes()
    manifest.save(prepared)
    assert (prepared / "manifest.json").read_bytes() == before and not list(prepared.glob("*.partial"))


def without(content, name):
    return {key: value for key, value in content.items() if key != name}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "",
        lambda content: json.dumps(content)[: random.randrange(1, 100)],
        lambda content: "[]",
        lambda content: "null",
        lambda content: "7",
        *[lambda content, name=name: without(content, name) for name in ("settings", "documents", "without_text", "shards")],
        lambda content: content | {"more": 1},
        lambda content: content | {"shards": 3},
        lambda content: content | {"shards": [3]},
        lambda content: content | {"shards": [{"name": "train_000000.bin"}]},
        lambda content: content | {"shards": [{"name": 5, "tokens": 7, "sha256": ""}]},
        lambda content: content | {"shards": [{"name": "train_000000.bin", "tokens": "7", "sha256": ""}]},
        lambda content: content | {"settings": []},
        lambda content: content | {"settings": without(SETTINGS, "tokenizer")},
        lambda content: content | {"settings": SETTINGS | {"tokenizer": {"name": "gpt2", "sha256": "ab"}}},
        lambda content: content | {"settings": SETTINGS | {"tokenizer": {"vocab_size": 5}}},
        lambda content: content | {"settings": SETTINGS | {"tokenizer": {"vocab_size": "many", "sha256": "ab"}}},
    ],
)
def test_a_damaged_manifest_is_refused_by_name(prepared, damage):
    path = prepared / "manifest.json"
    damaged = damage(json.loads(path.read_text()))
    path.write_text(damaged if isinstance(damaged, str) else json.dumps(damaged))
    with pytest.raises(UsageError, match=r"manifest\.json is not a manifest of token shards") as raised:
        shards.shard_paths(prepared)
    assert "\n" not in str(raised.value)


def test_a_manifest_that_is_not_text_or_not_there_is_refused_by_name(prepared, tmp_path):
    (prepared / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UsageError, match=r"manifest\.json is not a manifest of token shards"):
        shards.Manifest.load(prepared)
    (prepared / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"cannot read .*manifest\.json: No such file or directory"):
        shards.Manifest.load(prepared)


def test_the_shards_of_a_folder_are_those_of_its_manifest(prepared):
    write_as_llm_c(prepared / "train_000002.bin", [1])
    paths = shards.shard_paths(prepared)
    assert [path.name for path in paths["train"]] == ["train_000000.bin", "train_000001.bin"]
    assert paths["val"] == [prepared / "val_000000.bin"]


def test_a_shard_that_is_gone_or_of_another_size_than_the_manifest_says_is_named(prepared):
    for tokens in ([1, 2, 3, 4], [1, 2]):
        write_as_llm_c(prepared / "train_000001.bin", tokens)
        with pytest.raises(UsageError, match=rf"train_000001\.bin holds {len(tokens)} tokens; manifest\.json says 3"):
            shards.shard_paths(prepared)
    (prepared / "train_000001.bin").unlink()
    with pytest.raises(UsageError, match=r"train_000001\.bin is missing; fetch or prepare it again"):
        shards.shard_paths(prepared)


@pytest.mark.parametrize("stem", ["edu_fineweb_{}_", "fineweb_{}_", "finewebedu_{}_", "{}_", "tiny_shakespeare_{}"])
def test_published_folders_without_a_manifest_are_accepted_in_the_order_of_their_names(tmp_path, stem):
    train = [stem.format("train") + f"{i:06}.bin" for i in range(1, 12)]
    val = [stem.format("val") + "000000.bin"]
    written = {name: random_tokens(4) for name in random.sample([*train, *val], 12)}
    for name, tokens in written.items():
        write_as_llm_c(tmp_path / name, tokens)
    (tmp_path / "README.md").write_text("train and val")
    paths = shards.shard_paths(tmp_path)
    assert [path.name for path in paths["train"]] == train and [path.name for path in paths["val"]] == val
    joined = shards.Shards(paths["train"], VOCAB)
    np.testing.assert_array_equal(joined[:], np.concatenate([written[name] for name in train]))


def test_a_folder_without_shards_is_refused_with_what_makes_some(tmp_path):
    (tmp_path / "notes.txt").write_text("train")
    (tmp_path / "other.bin").write_bytes(b"")
    with pytest.raises(UsageError, match=r"holds neither manifest\.json nor shards with train or val .* --to .* prepares it"):
        shards.shard_paths(tmp_path)


def test_tokenizers_have_one_fingerprint_if_they_give_the_same_ids_and_else_another():
    def fingerprint(merges=((97, 98), (256, 99)), **changes):
        return shards.fingerprint(bpe.BytePairTokenizer(merges, **changes))

    shuffled = list(range(256))
    random.shuffle(shuffled)
    different = [
        fingerprint(),
        fingerprint([(97, 98)]),
        fingerprint([(97, 98), (256, 100)]),
        fingerprint([(98, 99), (97, 256)]),
        fingerprint([]),
        fingerprint(pattern=bpe.GPT4_PATTERN),
        fingerprint(alphabet=bytes(shuffled)),
        fingerprint(specials=[]),
        fingerprint(specials=["<|pad|>"]),
        fingerprint(specials=["<|endoftext|>", "<|pad|>"]),
        fingerprint(specials=["<|pad|>", "<|endoftext|>"]),
        fingerprint(specials=["<|endoftext|>\n<|pad|>"]),
        fingerprint(specials=[b"abc".hex(), "<|endoftext|>"]),
        fingerprint([(97, 98)], specials=[b"abc".hex(), "<|endoftext|>"]),
    ]
    assert len(set(different)) == len(different)
    assert fingerprint() == different[0]


def test_a_tokenizer_keeps_its_fingerprint_when_it_is_saved_and_read(tmp_path):
    learned = bpe.BytePairTokenizer.train(
        "to be or not to be, that is the question " * 9, 290, specials=["<|endoftext|>", "é"]
    )
    learned.save(tmp_path / "tokenizer.json")
    assert shards.fingerprint(bpe.BytePairTokenizer.load(tmp_path / "tokenizer.json")) == shards.fingerprint(learned)
    gpt2 = tokenizer.gpt2_tokenizer()
    gpt2.save(tmp_path / "tokenizer.json")
    assert shards.fingerprint(tokenizer.open_tokenizer(tmp_path)) == shards.fingerprint(gpt2) != shards.fingerprint(learned)
