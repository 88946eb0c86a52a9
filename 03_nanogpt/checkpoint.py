"""A trained model as one file, its weights and its shape; nothing in it is ever executed."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model

from shared.cli import RunError, UsageError

from .model import NonaGPT, NonaGPTConfig

WEIGHTS = "model.safetensors"


def save(model: NonaGPT, folder: Path) -> None:
    """Write the model into `folder`; what was there before stays whole until the new file is. Raises RunError if it cannot."""
    partial = folder / f"{WEIGHTS}.partial"
    try:
        save_model(model, str(partial), metadata={"config": json.dumps(asdict(model.config))})
        partial.replace(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"{folder / WEIGHTS} cannot be written: {error}") from None


def load(folder: str | Path, device: torch.device | str = "cpu") -> NonaGPT:
    """The model that `save` has left in `folder`, ready to write. Raises UsageError, naming the file, if there is none."""
    file = Path(folder) / WEIGHTS
    if not file.is_file():
        raise UsageError(
            f"{file} is not there; train a model first (python -m 03_nanogpt.train), or name a run's folder with --checkpoint"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
        if "config" not in metadata:
            raise ValueError("it does not say of which shape")
        model = NonaGPT(NonaGPTConfig(**json.loads(metadata["config"])))
        load_model(model, file)
    except (OSError, SafetensorError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{file} is not a model that 03_nanogpt.train has saved, or it was cut off: {reason}") from None
    return model.to(device).eval()
