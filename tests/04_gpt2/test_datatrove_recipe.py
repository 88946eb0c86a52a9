"""The README's pipeline of datatrove, with two local workers, gives the tokens of the data command."""

import random
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

data = import_module("04_gpt2.data")
gpt2_tokenizer = import_module("04_gpt2.tokenizer").gpt2_tokenizer

ROOT = Path(__file__).parents[2]


def random_texts(n):
    words = ["to", "be", "or", "not", "<|endoftext|>", "thé", "你好", "🙂", "question", "that", "is", "the"]
    return [" ".join(random.choices(words, k=random.randint(1, 60))) for _ in range(n)]


@pytest.fixture
def parquet(tmp_path):
    """A folder of four files, two of them deeper down."""
    folder = tmp_path / "my-folder"
    for name in ("0.parquet", "1.parquet", "more/0.parquet", "more/1.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        texts = random_texts(300)
        pq.write_table(pa.table({"id": [str(i) for i in range(300)], "text": texts}), folder / name)
    return folder


def run_readme_lines(folder, to, tasks, **arguments):
    """Run the README's lines as a script, with the paths, the tasks and more arguments in their places."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [lines] = [block for block in re.findall(r"```python\n(.*?)```", readme, flags=re.S) if "datatrove_recipe" in block]
    given = "".join(f", {name}={value!r}" for name, value in arguments.items())
    lines = lines.replace('"my-folder", "data/mine"', f"{str(folder)!r}, {str(to)!r}{given}")
    lines = lines.replace("tasks=8, workers=8", f"tasks={tasks}, workers=2").replace("data/mine-logs", f"{to}-logs")
    assert str(folder) in lines and "workers=2" in lines and f"{to}-logs" in lines
    script = folder.parent / "prepare.py"
    script.write_text(lines, encoding="utf-8")
    return subprocess.run([sys.executable, str(script)], cwd=folder.parent, capture_output=True, text=True)


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_task_for_each_file_gives_the_shards_and_the_manifest_of_the_data_command(tmp_path, parquet):
    to, whole = tmp_path / "mine", tmp_path / "whole"
    done = run_readme_lines(parquet, to, tasks=4, val_share=0.2, shard_tokens=5000)
    assert done.returncode == 0, done.stderr[-2000:]
    assert data.main(["merge", str(to), "-q"]) == 0
    flags = ["--source", str(parquet), "--to", str(whole), "--val-share", "0.2", "--shard-tokens", "5000", "-q"]
    assert data.main(flags) == 0
    assert content_of(to) == content_of(whole) and len(content_of(to)) > 5


def test_fewer_tasks_give_the_same_documents_in_another_order(tmp_path):
    folder, to = tmp_path / "my-folder", tmp_path / "mine"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jsonl").write_text("".join(f'{{"body": "document {i} {j}"}}\n' for j in range(40)))
    done = run_readme_lines(folder, to, tasks=2, column="body", val_share=0.0)
    assert done.returncode == 0, done.stderr[-2000:]
    assert data.main(["merge", str(to), "-q"]) == 0
    tokens = np.fromfile(to / "train_000000.bin", "<u2", offset=1024)
    text = gpt2_tokenizer().decode(tokens.tolist())
    in_order = [f"document {i} {j}" for i in (0, 2, 1) for j in range(40)]  # files 0 and 2 are the first task's
    assert text.split("<|endoftext|>")[1:] == in_order
