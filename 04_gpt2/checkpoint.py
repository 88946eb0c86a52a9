"""Checkpoints: all that a run needs to write text or to go on as if it had never stopped, and nothing that is executed.

A run's folder keeps its newest ones as checkpoints/step-000200 and so on. Three files of each are the model: config.json,
tokenizer.json, model.safetensors. Three more let training go on: optimizer.safetensors, random.safetensors, state.json.
"""

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.cli import RunError, UsageError
from shared.devices import random_state, set_random_state

from .bpe import END_OF_TEXT, BytePairTokenizer
from .config import GPTConfig, TrainConfig
from .model import GPT, TIED
from .sealed import PARTIAL, SUMS, remove, sealed, verify
from .token_data import TokenData

CHECKPOINTS = "checkpoints"
MODEL_FILES = CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
TRAINING_FILES = OPTIMIZER, RANDOM, STATE = "optimizer.safetensors", "random.safetensors", "state.json"
NAME = re.compile(rf"step-\d{{6,}}({re.escape(PARTIAL)})?")
# What may differ when a run goes on: where and how, not what. The tokens' digest decides whether the data are the same.
MAY_DIFFER = {"data", "run", "resume", "overwrite", "quiet", "keep", "device", "compile", "deterministic"}


def save(
    config: TrainConfig, step: int, model: GPT, optimizer: torch.optim.Optimizer, data: TokenData, notes: Mapping[str, Any]
) -> None:
    """Add the state after `step` updates to the run's checkpoints, then remove all but the newest `config.keep`.

    `notes` are plain values that `restore` gives back. Raises RunError if the weights are not finite or cannot be written;
    the checkpoints that were there stay.
    """
    run = Path(config.run)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != TIED}
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise RunError(f"the weights after step {step} are not finite and not saved; {newest_in_words(run)}")
    try:
        with sealed(run / CHECKPOINTS / f"step-{step:06}") as folder:
            _write_json(folder / CONFIG, config.to_json())
            data.tokenizer.save(folder / TOKENIZER)
            _write_tensors(folder / WEIGHTS, weights)
            _write_tensors(folder / OPTIMIZER, _optimizer_tensors(model, optimizer))
            _write_tensors(folder / RANDOM, random_state(model.device))
            _write_json(folder / STATE, {"step": step, "data_sha256": data.sha256, "notes": dict(notes)})
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"the checkpoint after step {step} could not be saved: {error}; {newest_in_words(run)}; "
            f"when that is put right, --resume goes on"
        ) from None
    for old in checkpoints(run)[: -config.keep]:
        with suppress(OSError):  # somebody may be reading it; the next save tries again
            remove(old)


def restore(folder: Path, model: GPT, optimizer: torch.optim.Optimizer, data: TokenData) -> tuple[int, dict[str, Any]]:
    """Put weights, optimizer and random state back as they were -> the number of updates done, the notes of `save`.

    Raises UsageError, naming the file, if one is damaged or does not fit, or if the data are not those of the checkpoint.
    """
    _verify(folder, MODEL_FILES + TRAINING_FILES)
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if state["data_sha256"] != data.sha256:
        raise UsageError(
            f"{folder} was trained on other tokens: the text, its shards or the way it is cut has changed since; "
            f"bring the old data back, or name another --run"
        )
    weights = load_file(folder / WEIGHTS)
    _require_fit(folder, weights, model)
    model.load_state_dict(weights, strict=False)
    index_of = {name: i for i, name in enumerate(_trained_names(model, optimizer))}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / OPTIMIZER).items():
        name, moment = key.rsplit(".", 1)
        moments.setdefault(index_of[name], {})[moment] = tensor.clone()  # out of the file, which may be removed
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    set_random_state(model.device, load_file(folder / RANDOM))
    for remains in folder.parent.glob("*" + PARTIAL):  # of a save or a removal that was cut off
        shutil.rmtree(remains)
    return state["step"], state["notes"]


def load(path: str | Path, device: torch.device) -> tuple[GPT, BytePairTokenizer]:
    """The model of a checkpoint, or of the newest one of a run, in evaluation mode, and its tokenizer.

    Raises UsageError, naming the file, if there is none, or a file is missing, damaged or of another model.
    """
    folder = find(Path(path))
    try:
        return _load(folder, device)
    except (UsageError, FileNotFoundError):
        if folder.exists():
            raise
        return load(path, device)  # training has replaced it by a newer one meanwhile


def load_shape(folder: Path) -> GPTConfig:
    """The shape of a checkpoint's model. Raises UsageError if its config.json is not the configuration of a run."""
    try:
        return GPTConfig(**settings(folder)["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{folder / CONFIG} is not the configuration of a run ({type(error).__name__}: {error}); "
            f"an exported or published model is opened by --pretrained"
        ) from None


def settings(folder: Path) -> dict[str, Any]:
    """The settings that a checkpoint's run was made with. Raises UsageError if the file was altered."""
    _verify(folder, (CONFIG,))
    return json.loads((folder / CONFIG).read_text(encoding="utf-8"))


def state(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of its run beside the settings: updates, digest of the tokens, notes."""
    _verify(folder, (STATE,))
    return json.loads((folder / STATE).read_text(encoding="utf-8"))


def require_same_settings(folder: Path, config: TrainConfig) -> None:
    """Raises UsageError, naming the fields, if the checkpoint's run was begun with other settings than `config`'s."""
    then, now = _flat(settings(folder)), _flat(config.to_json())
    differing = [name for name in then | now if then.get(name) != now.get(name) and name not in MAY_DIFFER]
    if differing:
        listed = ", ".join(f"{name} was {then.get(name)} and is {now.get(name)}" for name in differing)
        raise UsageError(f"{folder.parents[1]} holds a run with other settings: {listed}; give its settings, or another --run")


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    ours = (folder for folder in (run / CHECKPOINTS).glob("step-*") if NAME.fullmatch(folder.name))
    return sorted((folder for folder in ours if folder.suffix != PARTIAL), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The number of updates in a checkpoint's name."""
    return int(checkpoint.name.removeprefix("step-"))


def newest_in_words(run: Path) -> str:
    """What there is to go back to, for the reader of an error message."""
    found = checkpoints(run)
    return f"the last checkpoint is {found[-1]}" if found else f"{run} has no checkpoint yet"


def _load(folder: Path, device: torch.device) -> tuple[GPT, BytePairTokenizer]:
    _verify(folder, MODEL_FILES)
    shape = load_shape(folder)
    try:
        tokenizer = BytePairTokenizer.load(folder / TOKENIZER)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if END_OF_TEXT not in tokenizer.specials or tokenizer.vocab_size > shape.vocab_size:
        raise UsageError(
            f"{folder / TOKENIZER} does not fit {folder / CONFIG}: {END_OF_TEXT} and at most {shape.vocab_size} ids "
            f"are expected"
        )
    try:
        weights = load_file(folder / WEIGHTS, device=str(device))
    except SafetensorError as error:
        raise UsageError(f"{folder / WEIGHTS} is not a safetensors file: {error}") from None
    with torch.device("meta"):  # shapes only; the numbers come from the file
        model = GPT(shape)
    _require_fit(folder, weights, model)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_head()
    return model.eval(), tokenizer


def find(path: Path) -> Path:
    """The checkpoint at `path`, or the newest one of the run there. Raises UsageError if there is none."""
    if (path / SUMS).exists() or (path / WEIGHTS).exists():
        return path
    if found := checkpoints(path):
        return found[-1]
    if not path.exists():
        raise UsageError(f"{path} is not there; python -m 04_gpt2.train makes such a folder")
    reason = f"it has no {CHECKPOINTS}/step-..." if path.is_dir() else "it is a file"
    raise UsageError(f"{path} is not the folder of a run or a checkpoint: {reason}")


def _verify(folder: Path, names: tuple[str, ...]) -> None:
    try:
        verify(folder, names)
    except ValueError as error:
        folder = folder.absolute()
        siblings = checkpoints(folder.parent.parent)
        earlier = siblings[: siblings.index(folder)] if folder in siblings else []
        way_out = (
            f"remove {folder} to go back to {earlier[-1].name}" if earlier else "there is no earlier checkpoint to go back to"
        )
        raise UsageError(f"{error}; {way_out}") from None


def _require_fit(folder: Path, weights: Mapping[str, Tensor], model: GPT) -> None:
    expected = {name: tensor.shape for name, tensor in model.state_dict().items() if name != TIED}
    for name in sorted(expected.keys() | weights.keys()):
        found, wanted = weights[name].shape if name in weights else None, expected.get(name)
        if found != wanted:
            raise UsageError(
                f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {name} has shape {_shown(found)} in the one "
                f"and {_shown(wanted)} in the other"
            )


def _shown(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))


def _trained_names(model: GPT, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimizer's parameters, in the order in which it numbers them."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def _optimizer_tensors(model: GPT, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's memory, as `transformer.wte.weight.exp_avg` and so on."""
    names, moments = _trained_names(model, optimizer), optimizer.state_dict()["state"]
    return {f"{names[i]}.{moment}": tensor for i in moments for moment, tensor in moments[i].items()}


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "model"} | values["model"]


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file and read it back. Raises OSError if what is read differs from what was meant."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    shutil.copymode(path.with_name(CONFIG), path)  # safetensors writes files that only their owner may read
    with safe_open(path, "pt") as file:
        for name, tensor in tensors.items():
            if not torch.equal(file.get_tensor(name).flatten().view(torch.uint8), tensor.flatten().view(torch.uint8)):
                raise OSError(f"{path} does not read back as it was written")
