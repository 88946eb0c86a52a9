"""A run's model on disk: weights, configuration and tokenizer side by side in the run's folder, nothing that is executed."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from shared.cli import RunError, UsageError

from .bpe import END_OF_TEXT, BytePairTokenizer
from .config import GPTConfig, TrainConfig
from .model import GPT

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
TIED = "lm_head.weight"  # the same tensor as transformer.wte.weight: stored once


def save_weights(run: Path, model: GPT, step: int) -> None:
    """Write `run`/model.safetensors as it stands after `step` updates. The file is replaced in one move, once it is whole.

    Raises RunError if the weights are not finite or cannot be written; the file that was there stays.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items() if name != TIED}
    if not all(bool(t.isfinite().all()) for t in tensors.values()):
        raise RunError(f"the weights after step {step} are not finite and not saved; {run} keeps those before them")
    unfinished = run / (WEIGHTS + ".unfinished")
    try:
        save_file(tensors, unfinished, metadata={"format": "pt", "step": str(step)})
        shutil.copymode(run / CONFIG, unfinished)  # safetensors writes files that only their owner may read
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(run / WEIGHTS)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise RunError(f"the weights after step {step} could not be saved: {error}; {run} keeps those before them") from None


def save_description(run: Path, config: TrainConfig, tokenizer: BytePairTokenizer) -> None:
    """Write what the weights need beside them to be of use: the configuration and the tokenizer."""
    (run / CONFIG).write_text(json.dumps(config.to_json(), indent=2) + "\n", encoding="utf-8")
    tokenizer.save(run / TOKENIZER)


def load(run: str | Path, device: torch.device) -> tuple[GPT, BytePairTokenizer]:
    """The model of a run's folder, in evaluation mode, and its tokenizer.

    Raises UsageError, naming the file, if the folder is not a run or a file is missing, damaged or of another model.
    """
    run = Path(run)
    if not run.is_dir():
        raise UsageError(f"{run} is not the folder of a run with saved weights: it does not exist")
    missing = [name for name in (CONFIG, TOKENIZER, WEIGHTS) if not (run / name).is_file()]
    if missing:
        raise UsageError(f"{run} is not the folder of a run with saved weights: it has no {' and no '.join(missing)}")
    shape = load_shape(run)
    try:
        tokenizer = BytePairTokenizer.load(run / TOKENIZER)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if END_OF_TEXT not in tokenizer.specials or tokenizer.vocab_size > shape.vocab_size:
        raise UsageError(
            f"{run / TOKENIZER} does not fit {run / CONFIG}: {END_OF_TEXT} and at most {shape.vocab_size} ids are expected"
        )
    try:
        tensors = load_file(run / WEIGHTS, device=str(device))
    except SafetensorError as error:
        raise UsageError(f"{run / WEIGHTS} is damaged: {error}") from None
    with torch.device("meta"):  # shapes only; the numbers come from the file
        model = GPT(shape)
    expected = {name: t.shape for name, t in model.state_dict().items() if name != TIED}
    for name in sorted(expected.keys() | tensors.keys()):
        found, wanted = tensors[name].shape if name in tensors else None, expected.get(name)
        if found != wanted:
            raise UsageError(
                f"{run / WEIGHTS} does not fit {run / CONFIG}: {name} has shape {_shown(found)} in the one "
                f"and {_shown(wanted)} in the other"
            )
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_head()
    return model.eval(), tokenizer


def load_shape(run: Path) -> GPTConfig:
    """The shape of a run's model. Raises UsageError if `run`/config.json is not the configuration of a run."""
    try:
        return GPTConfig(**json.loads((run / CONFIG).read_text(encoding="utf-8"))["model"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{run / CONFIG} is not the configuration of a run ({type(error).__name__}: {error})") from None


def _shown(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))
