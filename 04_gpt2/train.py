"""Train a GPT: the story from a text to a model that writes. Run it: python -m 04_gpt2.train

Everything the story needs stands in the files before this one; here is their order, the loop, and what is told meanwhile.
"""

import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from statistics import fmean

if __name__ == "__main__":  # OpenMP reads this once, when PyTorch is loaded: idle threads sleep and leave the cores to others
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from shared.cli import RunError, UsageError, command, first_values, parse, stop_between_steps
from shared.devices import choose_device, choose_dtype, describe, seed_everything

from . import checkpoint
from .config import FINEWEB, PRESETS, TrainConfig, choose_preset
from .data import TEXTS, TokenData, load_text, prepare
from .evaluate import draw_loss, known_word_share, score
from .generate import Sampling, sample
from .loader import Loader
from .model import GPT
from .optim import cosine_with_warmup, make_optimizer, set_lr
from .run import CONTENT, Run, duration

SHORT_SAMPLE = Sampling(max_new_tokens=80)  # at each validation
LONG_SAMPLE, LONG_SAMPLES = Sampling(max_new_tokens=250), 8  # at the end: 2,000 tokens in one batch

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train as the flags say and leave a run's folder behind."""
    config, reason = configure(argv)
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    run = Run(config)
    text = load_text(config.data)

    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for the products that stay in float32
    seed_everything(config.seed)
    model, forward, seconds = build(config, device, dtype, longest=len(text.encode()))
    run.say(announcement(config, reason, device, dtype, seconds))

    run.say(f"turning {config.data} into tokens")
    data = prepare(text, config.tokenizer, config.model.vocab_size)
    try:
        loader = Loader(data.train, config.batch_size, config.model.block_size, config.seed)
    except ValueError as error:
        raise UsageError(f"--block-size is too long for {config.data}: {error}; give at most {len(data.train) - 1}") from None
    run.say(
        f"{config.data}: {len(text):,} characters, {data.tokenizer.vocab_size:,} token ids, "
        f"{len(data.train):,} tokens to learn from in {config.steps * config.tokens_per_step / len(data.train):.1f} passes, "
        f"{len(data.val):,} to validate on"
    )
    with run, stop_between_steps() as stop_asked:
        checkpoint.save_description(run.folder, config, data.tokenizer)
        finished = train(model, forward, data, loader, config, dtype, run, stop_asked)
    draw_loss(run.folder)
    if finished:
        finish(model, data, config, run)
    return 0 if finished else 130


def train(
    model: GPT,
    forward: Forward,
    data: TokenData,
    loader: Loader,
    config: TrainConfig,
    dtype: torch.dtype,
    run: Run,
    stop_asked: Callable[[], bool],
) -> bool:
    """Update the model `config.steps` times; validate, save and sample on the way. False if a stop was asked for.

    `forward` is the model, compiled or not; validation and sampling use `model` itself.
    """
    optimizer = make_optimizer(model, config)
    model.train()
    for step in range(config.steps):
        if step % config.eval_every == 0:
            evaluate_and_save(model, data, config, step, run)
        started = time.perf_counter()
        lr = cosine_with_warmup(step, config)
        set_lr(optimizer, lr)
        loss = accumulate_gradients(forward, loader, step, config, model.device, dtype)
        grad_norm = clip_grad_norm_(model.parameters(), config.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise RunError(
                f"loss {loss}, gradient norm {grad_norm} at step {step + 1}: the run stops; {run.folder} keeps the weights "
                f"of the last validation; try a lower --lr or a longer --warmup-steps"
            )
        optimizer.step()
        optimizer.zero_grad()
        run.step(step + 1, loss, lr, grad_norm, config.tokens_per_step / (time.perf_counter() - started))
        if stop_asked():
            checkpoint.save_weights(run.folder, model, step + 1)
            run.say(f"stopped after step {step + 1}; {run.folder} holds its weights, ready for 04_gpt2.generate")
            return False
    evaluate_and_save(model, data, config, config.steps, run)
    return not stop_asked()


def accumulate_gradients(
    forward: Forward,
    loader: Loader,
    step: int,
    config: TrainConfig,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """Add up the gradients of one update's micro-batches, each divided by their number -> mean loss in nats per token."""
    total = torch.zeros((), device=device)
    for i in range(step * config.accumulation_steps, (step + 1) * config.accumulation_steps):
        x, y = loader.batch(i)  # both (B, T)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            _, loss = forward(x.to(device), y.to(device))
        assert loss is not None
        (loss / config.accumulation_steps).backward()
        total += loss.detach() / config.accumulation_steps
    return total.item()


def evaluate_and_save(model: GPT, data: TokenData, config: TrainConfig, step: int, run: Run) -> None:
    """After `step` updates: validate on the fixed tokens, save the weights, write a short sample."""
    result = score(model, data.val, data.tokenizer, config.eval_tokens)
    if not math.isfinite(result.nats_per_token):
        raise RunError(f"validation loss {result.nats_per_token} after step {step}: {run.folder} keeps the weights before it")
    checkpoint.save_weights(run.folder, model, step)
    [written] = sample(model, data.tokenizer.encode("\n"), data.tokenizer, SHORT_SAMPLE, 1, config.seed)
    run.validation(step, result, data.tokenizer.decode(written))


def finish(model: GPT, data: TokenData, config: TrainConfig, run: Run) -> None:
    """Score all validation tokens, count the real words in long samples, say what lies where."""
    run.say("scoring all validation tokens and writing long samples")
    result = score(model, data.val, data.tokenizer)
    written = sample(model, data.tokenizer.encode("\n"), data.tokenizer, LONG_SAMPLE, LONG_SAMPLES, config.seed)
    texts = [data.tokenizer.decode(ids) for ids in written]
    for number, text in enumerate(texts, start=1):
        run.write_sample(f"at the end, {number} of {LONG_SAMPLES}", text)
    share = known_word_share("\n".join(texts), data.text)
    run.record(
        step=config.steps,
        whole_val_loss=result.nats_per_token,
        whole_val_bits_per_byte=result.bits_per_byte,
        known_word_share=share,
    )
    run.say(
        f"\nall {result.n_tokens:,} validation tokens: {result.nats_per_token:.3f} nats per token, "
        f"{result.bits_per_byte:.3f} bits per byte\n"
        f"{share:.1%} of the words in {sum(map(len, written)):,} sampled tokens occur in {config.data}\n\n"
        f"{run.folder} holds"
    )
    for name, content in CONTENT.items():
        run.say(f"  {name:18} {content}")
    prompt = ' --prompt "ROMEO:"' if config.data in TEXTS else ""
    run.say(f"let it write: python -m 04_gpt2.generate --checkpoint {shlex.quote(str(run.folder))}{prompt}")


def configure(argv: Sequence[str] | None) -> tuple[TrainConfig, str]:
    """The preset that the flags or the machine choose, changed by the other flags; and why it was chosen."""
    prog = "python -m 04_gpt2.train"
    given = first_values(argv, prog, "preset", "data", "device")
    has_cuda = choose_device(given.get("device", "auto")).type == "cuda"
    preset, reason = choose_preset(given.get("preset"), "data" in given, has_cuda, FINEWEB)
    config = parse(
        PRESETS[preset],
        argv,
        prog=prog,
        description=f"Train a GPT on a text. Defaults are those of --preset {preset}; others: {', '.join(PRESETS)}.",
        examples=[
            "python -m 04_gpt2.train",
            "python -m 04_gpt2.train --preset debug --run runs/try",
            "python -m 04_gpt2.train --data my.txt --run runs/mine --n-layer 6 --steps 5000",
        ],
    )
    return config, reason


def build(config: TrainConfig, device: torch.device, dtype: torch.dtype, longest: int) -> tuple[GPT, Forward, float]:
    """The model, its forward pass (compiled if so configured), and the seconds that the run should take.

    Raises UsageError if the model cannot work here: more positions than `longest`, the bytes of the text; too little memory;
    no compiler.
    """
    if config.model.block_size > longest:
        raise UsageError(f"--block-size {config.model.block_size} is too long for {config.data}, which has {longest:,} bytes")
    try:
        with device:
            model = GPT(config.model)
        seconds = expected_seconds(model, config, dtype)
    except (RuntimeError, MemoryError) as error:  # PyTorch's word for too little memory
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"a model of {config.model.n_params:,} parameters with --batch-size {config.batch_size} does not fit here "
            f"({reason}); choose a smaller one"
        ) from None
    if config.compile == "off" or (config.compile == "auto" and device.type != "cuda"):
        return model, model, seconds
    forward = torch.compile(model)
    try:
        trial_seconds(forward, model, config.batch_size, config.model.block_size, dtype)
    except Exception as error:  # compilers fail in many ways
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"torch.compile does not work here ({reason}); give --compile off") from None
    return model, forward, seconds


def expected_seconds(model: GPT, config: TrainConfig, dtype: torch.dtype) -> float:
    """Time of the run, from a few rows pushed forward and backward through the model."""
    T = min(config.model.block_size, 1024)
    rows = min(config.batch_size, max(1, 1024 // T)) if model.device.type == "cpu" else config.batch_size
    trials: list[float] = []
    while len(trials) < 2 or (len(trials) < 5 and sum(trials) < 2):
        trials.append(trial_seconds(model, model, rows, T, dtype))
    per_token = fmean(trials[1:]) / (rows * T)  # the first one warms up
    scored = (config.steps // config.eval_every + 2) * config.eval_tokens / 3  # forward only: a third of the work
    return per_token * (config.steps * config.tokens_per_step + scored)


def trial_seconds(forward: Forward, model: GPT, rows: int, T: int, dtype: torch.dtype) -> float:
    """Time of one micro-batch of (rows, T) tokens, forward and backward; leaves no gradient and no random number behind."""
    x = torch.zeros((rows, T), dtype=torch.long, device=model.device)
    started = time.perf_counter()
    with torch.random.fork_rng():
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            _, loss = forward(x, x)
        assert loss is not None
        loss.backward()
        loss.item()  # waits for the device
    model.zero_grad()
    return time.perf_counter() - started


def announcement(config: TrainConfig, reason: str, device: torch.device, dtype: torch.dtype, seconds: float) -> str:
    """The first line of a run: what was chosen, why, where it runs, how long it should take, how to choose otherwise."""
    return (
        f"preset {config.preset} ({reason}): {config.model.n_params:,} parameters on {describe(device)} in "
        f"{str(dtype).removeprefix('torch.')}, {config.steps:,} steps of {config.tokens_per_step:,} tokens, "
        f"about {duration(seconds)}; choose otherwise with --preset, --device, --steps ... (--help lists all)"
    )


if __name__ == "__main__":
    sys.exit(main())
