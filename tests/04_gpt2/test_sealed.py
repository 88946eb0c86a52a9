"""A sealed folder is whole or absent, whenever the process that writes it dies, and knows of every altered byte."""

import os
import random
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

sealed = import_module("04_gpt2.sealed")

CONTENT = {"a.json": b'{"step": 7}\n', "b.safetensors": bytes(range(256)) * 20}


@pytest.fixture
def folder(tmp_path):
    with sealed.sealed(tmp_path / "sealed") as partial:
        for name, content in CONTENT.items():
            (partial / name).write_bytes(content)
    return tmp_path / "sealed"


def test_the_digests_are_those_of_sha256sum(folder):
    if shutil.which("sha256sum") is None:
        pytest.skip("this machine has no sha256sum")
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    sealed.verify(folder, CONTENT)


def test_any_altered_byte_of_any_file_is_noticed(folder):
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for at in range(len(whole)):
            altered = bytearray(whole)
            altered[at] ^= 1 << random.randrange(8)
            path.write_bytes(altered)
            with pytest.raises(ValueError, match=r"altered"):
                sealed.verify(folder, CONTENT)
        path.write_bytes(whole)
    sealed.verify(folder, CONTENT)


@pytest.mark.parametrize("name", [*CONTENT, "SHA256SUMS"])
def test_a_file_that_is_cut_off_grown_or_gone_is_named(folder, name):
    whole = (folder / name).read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:-1], whole + b"\n"):
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}.* (cut off|altered)"):
            sealed.verify(folder, CONTENT)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=name):
        sealed.verify(folder, CONTENT)


def test_a_failure_within_the_block_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="on the way"), sealed.sealed(tmp_path / "sealed") as partial:
        (partial / "a").write_bytes(b"half")
        raise RuntimeError("on the way")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not tell which file a handle belongs to")
def test_every_file_and_folder_is_flushed_before_the_name_is_given(tmp_path, monkeypatch):
    """And after it the folder that holds the name; without that a power cut may take the file back."""
    flushed, fsync, rename = [], os.fsync, Path.rename

    def noting_fsync(handle):
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def noting_rename(path, target):
        flushed.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "rename", noting_rename)
    with sealed.sealed(tmp_path / "new" / "sealed") as partial:
        (partial / "a.json").write_bytes(b"a")
    assert sorted(flushed[:2]) == ["new", tmp_path.name]  # the folders that were made hold their names
    assert sorted(flushed[2:5]) == ["SHA256SUMS", "a.json", "sealed.partial"]
    assert flushed[5:] == ["renamed", "new"]


KILLED = """
import os, signal, sys
from importlib import import_module
from pathlib import Path
sealed = import_module("04_gpt2.sealed")
folder, last_event, action = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
seen = 0
def die(event, arguments):
    global seen
    if event.split(".")[0] in ("open", "os", "shutil"):
        seen += 1
        if seen == last_event:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
if action == "remove":
    sealed.remove(folder)
else:
    with sealed.sealed(folder) as partial:
        (partial / "a.json").write_bytes(b"a")
        (partial / "b.json").write_bytes(b"b" * 100_000)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("action", ["write", "remove"])
def test_a_kill_at_any_file_operation_leaves_the_folder_whole_or_absent(tmp_path, action):
    """Python announces every file operation to an audit hook; a process is killed at the first, the second, and so on."""
    outcomes = []
    for event in range(1, 1000):
        folder = tmp_path / str(event) / "sealed"
        if action == "remove":
            with sealed.sealed(folder) as partial:
                (partial / "a.json").write_bytes(b"a")
                (partial / "b.json").write_bytes(b"b" * 100_000)
        done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(event), action], env=os.environ)
        if folder.exists():
            sealed.verify(folder, ["a.json", "b.json"])
        outcomes.append(folder.exists())
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert len(outcomes) > 5 and outcomes == sorted(outcomes, reverse=action == "remove") and len(set(outcomes)) == 2
    with sealed.sealed(tmp_path / "1" / "sealed2") as partial:  # what a kill left is in nobody's way
        (partial / "a.json").write_bytes(b"a")
