"""The README's pipeline of datatrove, with two local workers, gives the tokens of the data command."""

import json
import random
import re
import subprocess
import sys
from importlib import import_module
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.pipeline.base import PipelineStep

from shared.cli import UsageError

data = import_module("04_gpt2.data")
recipe = import_module("04_gpt2.datatrove_recipe")

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


@pytest.mark.parametrize("tasks", [1, 2, 6])
def test_any_number_of_tasks_gives_the_same_shards_strange_documents_and_all(tmp_path, tasks):
    """One task writes the whole; of six, one for each of four files and two without."""
    folder, to, whole = tmp_path / "my-folder", tmp_path / "mine", tmp_path / "whole"
    folder.mkdir()
    for i in range(4):
        rows = [{"body": text} for text in [*random_texts(30), "", None, "half \ud83d of a pair"]]
        content = b"\xef\xbb\xbf" + b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        (folder / f"{i}.jsonl").write_bytes(content)
    (folder / ".hidden.jsonl").write_text('{"body": "hidden"}')
    done = run_readme_lines(folder, to, tasks, column="body")
    assert done.returncode == 0, done.stderr[-2000:]
    if tasks > 1:
        assert data.main(["merge", str(to), "-q"]) == 0
    assert data.main(["--source", str(folder), "--column", "body", "--to", str(whole), "-q"]) == 0
    assert content_of(to) == content_of(whole)


class Every2nd(PipelineStep):
    """A filter."""

    def run(self, data, rank=0, world_size=1):
        yield from islice(data, 0, None, 2)


def test_filtered_documents_are_told_from_all_of_them_and_nothing_is_overwritten(tmp_path, parquet, capsys):
    to, flags = tmp_path / "mine", ["--source", str(parquet), "--to", str(tmp_path / "mine"), "-q"]
    for _ in recipe.pipeline(str(parquet), str(to), steps=[Every2nd()])[0].run():
        pass  # reading writes nothing
    assert not to.exists()

    def run(steps):
        documents = None
        for step in recipe.pipeline(str(parquet), str(to), steps=steps):
            documents = step.run(documents)
        return len(list(documents))

    assert run([Every2nd()]) == 600
    before = content_of(to)
    assert sum(json.loads(before["manifest.json"])["documents"].values()) == 600
    assert data.main(flags) == 2 and "source steps was ['Every2nd'] and is None" in capsys.readouterr().err
    with pytest.raises(UsageError, match="holds data already"):
        run([])
    assert content_of(to) == before


def test_the_recipe_refuses_a_source_as_the_command_does(tmp_path):
    with pytest.raises(UsageError, match=r"holds no file that ends in \.parquet"):
        recipe.pipeline(str(tmp_path), str(tmp_path / "to"))
    with pytest.raises(UsageError, match="--column means nothing for --source shakespeare"):
        recipe.pipeline("shakespeare", str(tmp_path / "to"), column="body")
