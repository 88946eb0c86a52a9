"""Train a GPT: the story from a text to a model that writes. Run it: python -m 04_gpt2.train

Everything the story needs stands in the files before this one; here is their order, the loop, and what is told meanwhile.
"""

import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__":  # OpenMP reads this once, when PyTorch is loaded: idle threads sleep and leave the cores to others
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from shared import ngrams
from shared.cli import RunError, UsageError, command, duration, first_values, parse, stop_between_steps
from shared.devices import choose_device, choose_dtype, describe, seed_everything, use_deterministic_kernels

from .bpe import END_OF_TEXT
from .checkpoint import newest_in_words
from .config import FINEWEB, PRESETS, TrainConfig, choose_preset
from .evaluate import count_n_grams, draw_loss, known_word_share, score
from .generate import Sampling, sample
from .loader import Loader
from .model import GPT
from .optim import cosine_with_warmup, make_optimizer, set_lr
from .run import CONTENT, Run
from .token_data import TEXTS, TokenData, open_data, prepare
from .trial import Forward, build, compile_if_asked

SHORT_SAMPLE = Sampling(max_new_tokens=80)  # at each validation
LONG_SAMPLE, LONG_SAMPLES = Sampling(max_new_tokens=250), 8  # at the end: 2,000 tokens in one batch
SIGPIPE = 13  # the signal that ends a program whose reader has left; Python has turned it into an exception
COUNTED = 10_000_000  # bytes of a text up to which the result is held against counting, which then takes seconds


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train as the flags say and leave a run's folder behind."""
    config, reason = configure(argv)
    return start(Run(config), reason)


@dataclass(frozen=True)
class Job:
    """What one run works with. `forward` is the model, compiled or not; validation and sampling use `model` itself."""

    config: TrainConfig
    dtype: torch.dtype
    data: TokenData
    loader: Loader
    model: GPT
    forward: Forward
    optimizer: Optimizer
    run: Run


def start(run: Run, reason: str) -> int:
    """Set up, train, finish; the exit status. `reason` says why the preset was chosen."""
    config = run.config
    use_deterministic_kernels(config.deterministic)
    device = choose_device(config.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for the products that stay in float32
    dtype = choose_dtype(config.dtype, device)
    opened = open_data(config.data, config.model, read_ahead=config.order == "shards")
    seed_everything(config.seed)
    model, seconds = build(config, device, dtype)
    run.say(announcement(config, reason, device, seconds, run))
    forward = compile_if_asked(model, config, dtype)

    if isinstance(opened, str):
        run.say(f"turning {config.data} into tokens")
        opened = prepare(opened, config.tokenizer, config.model.vocab_size)
    data, block_size = opened, config.model.block_size
    try:
        loader = Loader(data.train, config.batch_size, block_size, config.seed, order=config.order, device=device)
    except ValueError as error:
        raise UsageError(f"--block-size is too long for {config.data}: {error}; give at most {len(data.train) - 1}") from None
    n_train, n_val = len(data.train) - 1, len(data.val) - 1
    held = "token shards" if data.text is None else f"{len(data.text):,} characters"
    run.say(
        f"{config.data}: {held}, {data.tokenizer.vocab_size:,} token ids, {n_train:,} tokens to learn from in "
        f"{config.steps * config.tokens_per_step / n_train:.1f} passes, {n_val:,} to validate on"
    )
    job = Job(config, dtype, data, loader, model, forward, make_optimizer(model, config), run)
    with run:
        with stop_between_steps() as stop_asked:
            stopped_by = train(job, lambda: stop_asked() or (SIGPIPE if run.reader_left else 0))
        if not stopped_by:
            finish(job)
        draw_loss(run.folder)
    return 128 + stopped_by if stopped_by else 0


def train(job: Job, stop_asked: Callable[[], int]) -> int:
    """Update the model `config.steps` times; validate, sample and save on the way. The signal that stopped it, or 0."""
    config, model, optimizer, run = job.config, job.model, job.optimizer, job.run
    first = run.restore(model, optimizer, job.data, job.loader)
    if run.resumes_from is None:
        validate_and_save(job, 0)
    model.train()
    for step in range(first, config.steps):
        started = time.perf_counter()
        lr = cosine_with_warmup(step, config)
        set_lr(optimizer, lr)
        loss = accumulate_gradients(job.forward, job.loader, config.accumulation_steps, job.dtype)
        grad_norm = clip_grad_norm_(model.parameters(), config.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise RunError(
                f"loss {loss}, gradient norm {grad_norm} at step {step + 1}: the run stops, {newest_in_words(run.folder)}; "
                f"begin another with a lower --lr or a longer --warmup-steps"
            )
        optimizer.step()
        optimizer.zero_grad()
        run.step(step + 1, loss, lr, grad_norm, config.tokens_per_step / (time.perf_counter() - started))
        if (step + 1) % config.eval_every == 0 or step + 1 == config.steps:
            validate_and_save(job, step + 1)
        elif stop_asked():
            run.save(step + 1, model, optimizer, job.data, job.loader)
        else:
            continue
        if signal := stop_asked():
            run.say(f"stopped after step {step + 1} and saved; the same command with --resume goes on from there")
            return signal
    return 0


def accumulate_gradients(forward: Forward, loader: Loader, micro_batches: int, dtype: torch.dtype) -> float:
    """Add up the gradients of one update's micro-batches, each divided by their number -> mean loss in nats per token."""
    device = loader.device
    total = torch.zeros((), device=device)
    for _ in range(micro_batches):
        x, y = next(loader)  # both (B, T)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = forward(x, y)
        (loss / micro_batches).backward()
        total += loss.detach() / micro_batches
    return total.item()


def validate_and_save(job: Job, step: int) -> None:
    """After `step` updates: score the fixed validation tokens, write a short sample, add a checkpoint."""
    config, data, model, run = job.config, job.data, job.model, job.run
    result = score(model, data.val, data.tokenizer, config.eval_tokens)
    if not math.isfinite(result.nats_per_token):
        raise RunError(
            f"validation loss {result.nats_per_token} after step {step}: the run stops, {newest_in_words(run.folder)}; "
            f"begin another with a lower --lr or a longer --warmup-steps"
        )
    [written] = sample(model, [opening(data)], data.tokenizer, SHORT_SAMPLE, config.seed)
    run.validation(step, result, data.tokenizer.decode(written))
    run.save(step, model, job.optimizer, data, job.loader)


def opening(data: TokenData) -> list[int]:
    """What samples go on from: <|endoftext|>, or of a text a new line, or its first token if it has no lines."""
    if data.text is None:
        return [data.tokenizer.specials[END_OF_TEXT]]
    return data.tokenizer.encode("\n") if "\n" in data.text else data.train[1:2].tolist()


def finish(job: Job) -> None:
    """Score all validation tokens, hold the result against counting, count real words in long samples, say what lies where."""
    config, data, model, run = job.config, job.data, job.model, job.run
    run.say(f"scoring all {len(data.val) - 1:,} validation tokens and writing long samples")
    result = score(model, data.val, data.tokenizer, show_progress=run.on_terminal)
    text = data.text
    counted = count_n_grams(text, result) if text is not None and len(text.encode()) <= COUNTED else None
    written = sample(model, [opening(data)] * LONG_SAMPLES, data.tokenizer, LONG_SAMPLE, config.seed)
    samples = [data.tokenizer.decode(ids) for ids in written]
    share = None if text is None else known_word_share("\n".join(samples), text)
    for number, written_text in enumerate(samples, start=1):
        run.write_sample(f"at the end, {number} of {LONG_SAMPLES}", written_text)
    run.record(
        step=config.steps,
        whole_val_loss=result.nats_per_token,
        whole_val_bits_per_byte=result.bits_per_byte,
        **({} if share is None else {"known_word_share": share}),
        **({"counting_loss": counted.nats_per_token, "counting_bits_per_byte": counted.bits_per_byte} if counted else {}),
    )
    run.say(f"\nall {result.n_tokens:,} validation tokens, the model:   {result}")
    if counted:
        better = result.bits_per_byte < counted.bits_per_byte
        verdict = "the model is better" if better else "counting is better: the model has yet to learn more than that"
        run.say(f"the same text, counting {ngrams.ORDER}-grams of bytes: {counted}; {verdict}")
    if share is not None:
        run.say(f"{share:.1%} of the words in {sum(map(len, written)):,} sampled tokens occur in {config.data}")
    run.say(f"\n{run.folder} holds")
    for name, content in CONTENT.items():
        run.say(f"  {name:14} {content}")
    prompt = ' --prompt "ROMEO:"' if config.data in TEXTS else ""
    run.say(f"let it write: python -m 04_gpt2.generate --checkpoint {shlex.quote(str(run.folder))}{prompt}")


def configure(argv: Sequence[str] | None) -> tuple[TrainConfig, str]:
    """The preset that the flags or the machine choose, changed by the other flags; and why it was chosen."""
    prog = "python -m 04_gpt2.train"
    given = first_values(argv, prog, "preset", "data", "device")
    has_cuda = choose_device(given.get("device", "auto")).type == "cuda"
    preset, reason = choose_preset(given.get("preset"), "data" in given, has_cuda, FINEWEB)
    config = parse(
        replace(PRESETS[preset], run=f"runs/{Path(given['data']).stem}") if "data" in given else PRESETS[preset],
        argv,
        prog=prog,
        description=f"Train a GPT on a text. Defaults are those of --preset {preset}; others: {', '.join(PRESETS)}.",
        examples=[
            "python -m 04_gpt2.train",
            "python -m 04_gpt2.train --preset debug --run runs/try",
            "python -m 04_gpt2.train --data my.txt --run runs/mine --n-layer 6 --steps 5000",
            "python -m 04_gpt2.train --data my.txt --run runs/mine --n-layer 6 --steps 5000 --resume",
        ],
    )
    return config, reason


def announcement(config: TrainConfig, reason: str, device: torch.device, seconds: float, run: Run) -> str:
    """The first line of a run: what was chosen, why, where it runs, how long it should take, how to choose otherwise."""
    left = 1 - run.steps_done / config.steps
    going_on = f" going on after step {run.steps_done:,}," if run.steps_done else ""
    return (
        f"preset {config.preset} ({reason}): {config.model.n_params:,} parameters on {describe(device)} in {config.dtype}, "
        f"{config.steps:,} steps of {config.tokens_per_step:,} tokens,{going_on} about {duration(seconds * left)}; "
        f"choose otherwise with --preset, --device, --steps ... (--help lists all)"
    )


if __name__ == "__main__":
    sys.exit(main())
