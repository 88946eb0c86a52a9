"""Prepare token shards for training, check them, join those of many machines.

Run it: python -m 04_gpt2.data --source shakespeare --to data/shakespeare
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

if __name__ == "__main__":  # the library datasets looks at this when it is loaded: it need not load PyTorch too
    os.environ.setdefault("USE_TORCH", "0")

from tqdm import tqdm

from shared.cli import RunError, UsageError, command, duration, parse, stop_between_steps

from .preparation import Task, Told, merge, prepare, settings_of
from .sealed import digest_of
from .shards import MANIFEST, PROGRESS, Manifest, count_tokens, read_tokens, require_ids_below, shard_paths, tokenizer_of
from .sources import NAMES, open_source
from .tokenizer import open_tokenizer

AT_ONCE = 16  # workers, unless more are asked for: they and the process that reads and writes fit in 2 GiB
LOG_SECONDS = 60  # between two lines, where there is no terminal for a progress bar


@dataclass(frozen=True)
class DataConfig:
    """What `python -m 04_gpt2.data` does."""

    what: Annotated[
        Literal["prepare", "verify", "merge"],
        "prepare: a source's documents become shards; verify: each shard of FOLDER is as it was written; "
        "merge: the parts that tasks have left in FOLDER become one",
    ] = "prepare"
    folder: Annotated[str, "of shards, for verify and merge"] = ""
    source: Annotated[
        str,
        f"{', '.join(NAMES)}, a text FILE, a FOLDER of parquet files or JSON lines, or the name of a data set on "
        "Hugging Face's hub",
    ] = ""
    to: Annotated[str, "folder that is filled"] = ""
    subset: Annotated[str, "of a data set on the hub, or of a folder with the hub's layout; fineweb-edu: sample-10BT"] = ""
    split: Annotated[str, "of a data set on the hub, or of a folder with a --subset"] = "train"
    revision: Annotated[str, "of a data set on the hub: branch, tag or commit; left out, the newest"] = ""
    column: Annotated[str, "that holds the documents' text"] = "text"
    download: Annotated[bool, "fetch a data set of the hub into the cache before beginning; otherwise it is streamed"] = False
    tokenizer: Annotated[str, "gpt2, a run's folder, or a tokenizer.json, of at most 65,536 ids"] = "gpt2"
    val_share: Annotated[float, "share of the documents that are for validation, chosen by a hash of their text"] = 0.01
    shard_tokens: Annotated[int, "tokens in each shard but the last"] = 100_000_000
    workers: Annotated[
        int, f"processes that tokenise; 0 takes one for each core, but at most {AT_ONCE}, which fit in 2 GiB of memory"
    ] = 0
    task: Annotated[str, "i/N: do the i-th of N parts (1/N to N/N), for merge to join"] = ""
    overwrite: Annotated[bool, "replace the shards that the folder holds"] = False
    quiet: Annotated[bool, "print nothing but errors"] = False

    def __post_init__(self):
        if not 0 <= self.val_share < 1:
            raise ValueError(f"val_share is {self.val_share}; a share of at least 0 and below 1 is expected")
        if not 1 <= self.shard_tokens < 2**31:
            raise ValueError(f"shard_tokens is {self.shard_tokens}; 1 to {2**31 - 1}, what the header can say, is expected")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; a number of at least 0 is expected")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, verify or merge."""
    config = parse(
        DataConfig(),
        argv,
        prog="python -m 04_gpt2.data",
        description="Turn documents into token shards that training reads; check them, join them.",
        examples=[
            "python -m 04_gpt2.data --source fineweb-edu --to data/fineweb-edu",
            "python -m 04_gpt2.data --source my-parquet-files --to data/mine",
            "python -m 04_gpt2.data --source fineweb-edu --to data/fineweb-edu --task 3/8",
            "python -m 04_gpt2.data merge data/fineweb-edu",
            "python -m 04_gpt2.data verify data/fineweb-edu",
        ],
        positional="[what] [folder]",
    )
    if config.what == "prepare":
        return _prepare(config)
    may_be_given = DataConfig(what=config.what, folder=config.folder, quiet=config.quiet)
    if config.what == "merge":
        may_be_given = replace(may_be_given, overwrite=config.overwrite)
    if config != may_be_given or not config.folder:
        raise UsageError(
            f"{config.what} takes a folder of shards and nothing else: python -m 04_gpt2.data {config.what} FOLDER"
        )
    if not Path(config.folder).is_dir():
        raise UsageError(f"{config.folder} is not a folder; one that holds token shards is expected")
    if config.what == "verify":
        verify(Path(config.folder), config.quiet)
        return 0
    merge(Path(config.folder), config.overwrite, lambda name: None if config.quiet else print(f"{name} joined", flush=True))
    if not config.quiet:
        print(f"{summary(Path(config.folder))}; the folders part-... are not needed any more")
    return 0


def verify(folder: Path, quiet: bool = False) -> None:
    """Check each shard against the manifest (where there is one) and its ids against the vocabulary. Raises RunError if some
    are not as they were written, UsageError if the folder holds no shards."""
    manifest = Manifest.load(folder) if (folder / MANIFEST).exists() else None
    vocab_size = tokenizer_of(folder, read=True).vocab_size
    if manifest:
        paths, digests = [folder / entry.name for entry in manifest.shards], [entry.sha256 for entry in manifest.shards]
    else:
        paths = [path for found in shard_paths(folder).values() for path in found]
        digests = [""] * len(paths)
    bad, total = [], 0
    listed = {path.name for path in paths}
    if strays := sorted(path.name for path in folder.glob("*.bin") if path.name not in listed and manifest):
        raise RunError(f"{folder} holds {', '.join(strays)}, which {MANIFEST} does not list; move them elsewhere")
    for path, digest in zip(paths, digests, strict=True):
        try:
            n_tokens = count_tokens(path)
            if digest and digest_of(path) != digest:
                raise UsageError(
                    f"{path} was altered: its SHA-256 is not the one in {MANIFEST}; fetch or prepare it again (--overwrite)"
                )
            for tokens in read_tokens(path):
                require_ids_below(vocab_size, tokens, path)
            total += n_tokens
            said = f"{path.name}: {n_tokens:,} tokens" + (", as they were written" if digest else "")
        except UsageError as error:
            bad.append(path)
            said = str(error)
        if not quiet:
            print(said, flush=True)
    if bad:
        raise RunError(f"{len(bad)} of {len(paths)} shards in {folder} cannot be used: {', '.join(path.name for path in bad)}")
    if not quiet:
        digests_said = "" if manifest else f"; there is no {MANIFEST}, so that only form and ids were checked"
        print(f"{counted(len(paths), 'shard')}, {total:,} tokens: all good{digests_said}")


def summary(folder: Path) -> str:
    """What a finished folder holds, in words."""
    manifest = Manifest.load(folder)
    said = []
    for split, n_documents in manifest.documents.items():
        shards = manifest.of(split)
        n_tokens = sum(entry.tokens for entry in shards)
        said.append(f"{split}: {n_tokens:,} tokens of {counted(n_documents, 'document')} in {counted(len(shards), 'shard')}")
    left_out = f"; {counted(manifest.without_text, 'row')} had no text" if manifest.without_text else ""
    return f"{folder} is finished: {', '.join(said)}{left_out}"


def opening(folder: Path, files: Sequence[str], task: Task, overwrite: bool) -> str:
    """What is about to happen in a folder, in words."""
    if (folder / MANIFEST).exists() and not overwrite:
        return f"{folder} was finished before; verify checks it, --overwrite begins anew"
    n_files = counted(len(task.files(len(files))), "file")
    if (folder / PROGRESS).exists() and not overwrite:
        n_shards = counted(len(list(folder.glob("*.bin"))), "finished shard")
        return f"going on in {folder} after {n_shards}; the source has {n_files}"
    return f"from {n_files} to token shards in {folder}"


def counted(number: int, what: str) -> str:
    """A number of things: 1 shard, 2,000 shards."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def parse_task(text: str) -> Task:
    """The task that "3/8" means. Raises UsageError if it is none."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--task {text} is not one of 1/N, 2/N, ... N/N")
    return Task(int(index), int(count))


def _prepare(config: DataConfig) -> int:
    if not (config.source and config.to) or config.folder:
        raise UsageError("--source and --to are needed: what is to become tokens, and the folder for them")
    tokenizer = open_tokenizer(config.tokenizer)
    if Path(config.source).is_dir() and Path(config.to).resolve().is_relative_to(Path(config.source).resolve()):
        raise UsageError(f"--to {config.to} lies in --source {config.source}, whose files it would be among; name another")
    task = parse_task(config.task) if config.task else Task()
    folder = task.folder(Path(config.to))
    source = open_source(
        config.source,
        config.subset,
        config.split,
        config.revision,
        config.column,
        config.download,
        show_progress=sys.stderr.isatty() and not config.quiet,
    )
    if task.count > len(source.files):
        n_files = counted(len(source.files), "file")
        raise UsageError(f"--task {config.task}: {config.source} has {n_files}; at most that many tasks can share it")
    settings = settings_of(source.description, tokenizer, config.val_share, config.shard_tokens, task)
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with Report(config.quiet) as report, stop_between_steps() as stop_asked:
        report.say(opening(folder, source.files, task, config.overwrite))
        stopped_by = prepare(
            source,
            tokenizer,
            folder,
            settings,
            task=task,
            workers=config.workers or min(n_cores, AT_ONCE),
            overwrite=config.overwrite,
            stop_asked=stop_asked,
            tell=report.tell,
        )
        if stopped_by:
            report.say("stopped and saved; the same command goes on from there")
            return 128 + stopped_by
        report.say(summary(folder))
    return 0


class Report:
    """Tokens per second and time left: a bar on a terminal; elsewhere a line for each shard, and one a minute."""

    def __init__(self, quiet: bool):
        self._quiet, self._tokens, self._first_tokens = quiet, 0, 0
        self._first_share: float | None = None
        self._started: float | None = None  # when the first piece was written: what came before was setting up
        self._said = 0.0
        self._bar = tqdm(
            unit=" tokens", unit_scale=True, dynamic_ncols=True, leave=False, disable=quiet or not sys.stderr.isatty()
        )

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def say(self, text: str) -> None:
        """A line above the bar."""
        if not self._quiet:
            tqdm.write(text)
            sys.stdout.flush()

    def tell(self, told: Told) -> None:
        """Report a piece that has been written."""
        now = time.perf_counter()
        if self._started is None:
            self._started = self._said = now
            self._first_tokens, self._first_share = told.tokens, told.share
        seconds = now - self._started
        self._tokens += told.tokens
        self._bar.update(told.tokens)
        where = told.file
        if told.share is not None and self._first_share is not None:
            gained = told.share - self._first_share
            where = f"{told.share:.1%} read" + (f", {duration(seconds * (1 - told.share) / gained)} left" if gained else "")
        self._bar.set_postfix_str(where, refresh=False)
        rate = f"{(self._tokens - self._first_tokens) / seconds:,.0f} tokens/s, " if seconds else ""
        for name in told.finished:
            self.say(f"{name} finished; {rate}{where}")
        if self._bar.disable and now - self._said > LOG_SECONDS:
            self.say(f"{self._tokens:,} tokens; {rate}{where}")
            self._said = now


if __name__ == "__main__":
    sys.exit(main())
