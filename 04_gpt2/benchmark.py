"""Every claim of speed and memory, measured beside a peer in the same run: CPU seconds on one thread, in turn, medians.

Run it: python -m 04_gpt2.benchmark race (the peers come with pip install -e ".[bench]")
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from shared.cli import UsageError, command, parse
from shared.devices import DeviceName, choose_device

from .benchmark_data import batches, preparing
from .benchmark_ladder import GPT2, LADDER_FILES, SMALL, ladder, print_table, write
from .benchmark_optimizers import OPTIMIZERS_FILES, optimizers
from .benchmark_race import race
from .benchmark_scaling import scaling
from .benchmark_step import attention, heads, whole_step
from .benchmark_tokens import tokens
from .config import PRESETS, GPTConfig
from .generate import Sampling, sample
from .measure import alone, in_turn
from .model import GPT
from .tokenizer import gpt2_tokenizer
from .verify import fresh

NEW_TOKENS = 64
ROWS = {"cpu": 4, "cuda": 16}  # of a batch of ladder and scaling


@dataclass(frozen=True)
class BenchmarkConfig:
    """What `python -m 04_gpt2.benchmark` does."""

    what: Annotated[
        Literal[
            "ladder",
            "scaling",
            "step",
            "head",
            "attention",
            "optimizers",
            "race",
            "generate",
            "tokenizer",
            "loading",
            "data",
            "loader",
        ],
        "what to measure",
    ] = "race"
    data: Annotated[str, "race, optimizers: the text, as for 04_gpt2.train"] = "tinyshakespeare"
    size: Annotated[Literal["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"], "loading: which model"] = "gpt2-xl"
    device: Annotated[DeviceName, "ladder, scaling: where to compute; auto takes cuda, else mps, else cpu"] = "auto"
    rows: Annotated[int, "ladder, scaling: rows of tokens in a batch; 0 takes 4 on a CPU and 16 on a GPU"] = 0
    compile: Annotated[Literal["auto", "on", "off"], "ladder: torch.compile as a rung; auto has it on cuda"] = "auto"
    to: Annotated[str, "ladder, optimizers: folder for JSON lines and a picture"] = "runs/benchmark"
    repeats: Annotated[
        int, "but for loading: measurements of each competitor, taken in turn; in a race each has its own seed"
    ] = 3

    def __post_init__(self):
        if self.rows < 0:
            raise ValueError(f"rows is {self.rows}; at least 0 is expected")
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}; at least 1 is expected")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    config = parse(
        BenchmarkConfig(),
        argv,
        prog="python -m 04_gpt2.benchmark",
        description="Measure a claim of speed or memory, beside a peer where there is one.",
        examples=[
            "python -m 04_gpt2.benchmark ladder",
            "python -m 04_gpt2.benchmark race --data my.txt",
            "python -m 04_gpt2.benchmark generate",
            "python -m 04_gpt2.benchmark tokenizer --repeats 9",
            "python -m 04_gpt2.benchmark loading --size gpt2-large",
            "python -m 04_gpt2.benchmark data",
            "python -m 04_gpt2.benchmark loader",
        ],
        positional="what",
    )
    if config.what == "ladder":
        climb(config)
        return 0
    torch.set_num_threads(1)
    try:
        if config.what == "scaling":
            kind = choose_device(config.device).type
            scaling(kind, config.rows or ROWS.get(kind, ROWS["cpu"]), config.repeats)
        elif config.what == "step":
            whole_step(config.repeats)
        elif config.what == "head":
            heads(config.repeats)
        elif config.what == "attention":
            attention(config.repeats)
        elif config.what == "optimizers":
            optimizers(config.data, config.repeats, room_for(OPTIMIZERS_FILES, config.to))
        elif config.what == "race":
            race(config.data, config.repeats)
        elif config.what == "generate":
            generation(config.repeats)
        elif config.what == "tokenizer":
            tokens(config.repeats)
        elif config.what == "data":
            preparing(config.repeats)
        elif config.what == "loader":
            batches(config.repeats)
        else:
            loading(config.size)
    except ModuleNotFoundError as error:
        raise UsageError(f'the peer {error.name} is not installed; pip install -e ".[bench]" brings it') from None
    return 0


def climb(config: BenchmarkConfig) -> None:
    """The speed ladder, with all cores: a table, and in a folder JSON lines and a chart."""
    device, folder = choose_device(config.device), room_for(LADDER_FILES, config.to)
    compile_too = config.compile == "on" or (config.compile == "auto" and device.type == "cuda")
    shape = GPT2 if device.type == "cuda" else SMALL
    rows = config.rows or ROWS.get(device.type, ROWS["cpu"])
    print(f"{shape.n_params:,} parameters, {rows} rows of {shape.block_size:,} tokens; median of {config.repeats}, in turn")
    table = ladder(device, shape, rows, config.repeats, compile_too, lambda text: print(text, flush=True))
    print_table(table)
    write(table, device, folder)
    print(f"{folder} holds {' and '.join(LADDER_FILES)}")


def room_for(names: Sequence[str], folder: str) -> Path:
    """The path of `folder`. Raises UsageError if it holds a file that would be written over."""
    if there := [name for name in names if (Path(folder) / name).exists()]:
        raise UsageError(f"{Path(folder) / there[0]} is there already; name another folder by --to")
    return Path(folder)


def generation(repeats: int) -> None:
    """Greedy generation from a 124M model with random weights: with our cache, with Hugging Face's, and without one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    tokenizer, shape = gpt2_tokenizer(), GPTConfig()
    ours = GPT(shape).eval()
    theirs: Any = GPT2LMHeadModel(GPT2Config()).eval()
    sampling = Sampling(max_new_tokens=NEW_TOKENS, temperature=0)
    print(f"{NEW_TOKENS} tokens from {shape.n_params:,} parameters: median CPU seconds of {repeats} on one thread")
    print(f"{'prompt':>8}{'ours':>8}{'Hugging Face':>14}{'times ours':>12}{'no cache':>10}{'times ours':>12}")
    for length in (16, 64, 256):
        prompt = torch.randint(shape.vocab_size - 1, (length,)).tolist()  # any but <|endoftext|>

        @torch.no_grad()
        def without_cache(prompt: list[int] = prompt) -> object:
            idx = torch.tensor([prompt])
            for _ in range(NEW_TOKENS):
                logits = ours.lm_head(ours.transformer(idx)[:, -1])
                idx = torch.cat([idx, logits.argmax(dim=-1, keepdim=True)], dim=1)
            return idx

        def hugging_face(prompt: list[int] = prompt) -> object:
            idx = torch.tensor([prompt])
            exactly = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
            return theirs.generate(idx, attention_mask=torch.ones_like(idx), do_sample=False, pad_token_id=0, **exactly)

        def with_cache(prompt: list[int] = prompt) -> None:
            [written] = sample(ours, [prompt], tokenizer, sampling, seed=0)
            assert len(written) == NEW_TOKENS  # <|endoftext|> would have ended it

        a, b, c = in_turn([with_cache, hugging_face, without_cache], repeats)
        print(f"{length:>8}{a:>8.2f}{b:>14.2f}{b / a:>12.2f}{c:>10.2f}{c / a:>12.2f}", flush=True)


def loading(size: str) -> None:
    """The memory that loading a model of a published size takes, here with random weights: ours, and transformers'.

    Each weight is read once after the loading: transformers leaves them in the file until they are.
    """
    n_bytes = replace(PRESETS[size].model, vocab_size=50257).n_params * 4
    print(f"loading {size}, {n_bytes / 1e9:.2f} GB of float32: each in a process of its own")
    print(f"{'':>14}{'most memory in use, times the model':>38}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        alone(fresh, size, Path(folder) / "model")
        for name, load in (("ours", load_ours), ("transformers", load_theirs)):
            cost = alone(load, Path(folder) / "model")
            print(f"{name:>14}{cost.megabytes * 1e6 / n_bytes:>38.2f}", flush=True)


def load_ours(folder: Path) -> float:
    """Sum of the parameters loaded by GPT.from_pretrained."""
    return sum(parameter.sum().item() for parameter in GPT.from_pretrained(folder).parameters())


def load_theirs(folder: Path) -> float:
    """Sum of the parameters loaded by transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return sum(parameter.sum().item() for parameter in model.parameters())


if __name__ == "__main__":
    sys.exit(main())
