"""Published weights in: a checkpoint of GPT-2's architecture, from Hugging Face's hub or a folder, becomes a GPT.

Their files name tensors as OpenAI did. Three things differ from nn.Linear's: some matrices lie transposed, old files hold the
causal masks, and the output head is stored once, as the token table.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shared.cli import UsageError

from . import hub
from .bpe import END_OF_TEXT, BytePairTokenizer
from .config import GPTConfig
from .model import GPT, TIED
from .tokenizer import open_tokenizer

# OpenAI's code multiplies x @ w: these four of each block are stored as (in, out), and nn.Linear holds (out, in).
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
# The causal mask, once in each block, and the number put in its place: constants that old versions saved with the weights.
MASK = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")
# What else a configuration of this architecture can ask for, and the one choice that is GPT-2.
GPT2 = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


def load_with_tokenizer(name: str | Path, device: torch.device) -> tuple[GPT, BytePairTokenizer]:
    """A model as `from_pretrained` finds it, and the tokenizer that lies with it.

    Raises UsageError if there is none, or if it does not fit the model.
    """
    folder = hub.find(name, with_tokenizer=True)
    tokenizer = open_tokenizer(folder)
    require_fit(folder, tokenizer)
    return from_pretrained(folder, device=device), tokenizer


def require_fit(folder: Path, tokenizer: BytePairTokenizer) -> None:
    """Raises UsageError if the tokenizer has no <|endoftext|>, or more ids than the folder's model has rows."""
    n_rows = read_shape(folder).vocab_size
    if END_OF_TEXT not in tokenizer.specials or tokenizer.vocab_size > n_rows:
        raise UsageError(
            f"the vocabulary does not fit the weights in {folder}: {END_OF_TEXT} and at most {n_rows} ids are expected, and "
            f"it has {tokenizer.vocab_size} ids and the special tokens {list(tokenizer.specials)}"
        )


def from_pretrained(
    name: str | Path,
    dtype: torch.dtype = torch.float32,
    block_size: int | None = None,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> GPT:
    """A model of GPT-2's architecture from the hub ("gpt2", "gpt2-xl", any other name) or a local folder, in evaluation mode.

    Of a safetensors file one tensor is read at a time, so that no more than the model and its largest tensor is in memory.
    dtype       of the weights in memory, whatever the file has
    block_size  keeps the first positions only; at most as many as the file has
    vocab_size  adds rows to the token table, each the mean of the others: the logits of the real ids stay what they are, and
                the loss grows by at most ln(vocab_size / rows of the file), since the mean of the exponentials is not below
                the exponential of the mean
    Dropout is 0: it is no property of the weights. Raises UsageError, naming the file and the tensor, if something does not
    fit; hub.UnreachableError if the hub cannot be reached and the cache does not hold the model.
    """
    if not dtype.is_floating_point:
        raise UsageError(f"{dtype} cannot hold weights; torch.float32, torch.bfloat16 or torch.float16 is expected")
    folder = hub.find(name)
    stored = read_shape(folder)
    if block_size is not None and block_size > stored.block_size:
        raise UsageError(
            f"block_size {block_size} is more than the {stored.block_size} positions of {folder}; it can only cut"
        )
    if vocab_size is not None and vocab_size < stored.vocab_size:
        raise UsageError(
            f"vocab_size {vocab_size} is less than the {stored.vocab_size} rows of {folder}; it can only add rows"
        )
    asked = {"block_size": block_size, "vocab_size": vocab_size}
    try:
        shape = replace(stored, **{name: size for name, size in asked.items() if size is not None})
    except ValueError as error:
        raise UsageError(str(error)) from None
    with torch.device("meta"):  # shapes only; the numbers come from the file
        model, expected = GPT(shape), GPT(stored).state_dict()
    sizes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    weights: dict[str, Tensor] = {}
    for path in hub.weight_files(folder):
        for name_there, tensor in _read(path):
            ours = our_name(name_there)
            if ours is None:
                continue
            if ours not in expected or ours in weights:
                strange = "a second time" if ours in weights else "which no GPT-2 has"
                raise UsageError(
                    f"{path} holds the tensor {name_there}, {strange}; a GPT-2 of {stored.n_layer} blocks is expected"
                )
            if not tensor.is_floating_point():
                raise UsageError(f"{path}: {name_there} is of type {tensor.dtype}; floating-point numbers are expected")
            transposed = ours.endswith(TRANSPOSED)
            found, wanted = tuple(tensor.shape), tuple(expected[ours].shape)[:: -1 if transposed else 1]
            if found != wanted:
                raise UsageError(
                    f"{path} does not fit {folder / hub.CONFIG}: {name_there} has shape {found}, expected {wanted}"
                )
            weights[ours] = _resized(tensor.t() if transposed else tensor, sizes[ours], dtype, device)
            del tensor  # before the next one is read
    if missing := [name for name in expected if name not in weights and name != TIED]:
        more = f", nor {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UsageError(f"{folder} lacks the tensor {missing[0]}{more}; {len(expected) - 1} are expected")
    if TIED in weights and not torch.equal(weights.pop(TIED), weights["transformer.wte.weight"]):
        raise UsageError(f"{folder} has an output head ({TIED}) that is not its token table; GPT-2's is")
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_head()
    return model.eval()


def read_shape(folder: Path) -> GPTConfig:
    """The shape of the model in a folder. Raises UsageError if its config.json is not that of a GPT-2."""
    path = folder / hub.CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for name, accepted in GPT2.items():
            if (value := found.get(name, accepted[0])) not in accepted:
                raise UsageError(f"{path} is not the configuration of a GPT-2: {name} is {value!r}, expected {accepted[0]!r}")
        if "model_type" not in found:
            raise UsageError(
                f"{path} is not the configuration of a GPT-2: it names no model_type (a checkpoint of this project is opened "
                f"by --checkpoint, or exported first)"
            )
        shape = GPTConfig(
            block_size=found.get("n_positions", 1024),
            vocab_size=found.get("vocab_size", 50257),
            n_layer=found.get("n_layer", 12),
            n_head=found.get("n_head", 12),
            n_embd=found.get("n_embd", 768),
        )
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}; a folder with a model of GPT-2's form is expected (a run of this project "
            f"is opened by --checkpoint, or exported first)"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not the configuration of a GPT-2 ({type(error).__name__}: {error})") from None
    if found.get("n_inner") not in (None, 4 * shape.n_embd):
        raise UsageError(
            f"{path} asks for an MLP of width {found['n_inner']}; GPT-2's is four times n_embd, {4 * shape.n_embd}"
        )
    return shape


def our_name(name: str) -> str | None:
    """This project's name of a stored tensor, None for a mask: h.0.ln_1.bias, or transformer.h.0.ln_1.bias -> the latter."""
    if MASK.fullmatch(name):
        return None
    return name if name == TIED else "transformer." + name.removeprefix("transformer.")


def _read(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, one after the other. Nothing in the file is executed. Raises UsageError if it is damaged."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                names = list(file.keys())
            for name in names:
                with safe_open(path, "pt") as file:  # anew, so that the memory of the tensors before is given back
                    yield name, file.get_tensor(name)
        else:
            yield from _unpickled(path).items()
    except FileNotFoundError:
        raise UsageError(f"{path} is missing, though the index beside it names it") from None
    except SafetensorError as error:
        raise UsageError(f"{path} is not a whole safetensors file: {error}") from None


def _unpickled(path: Path) -> dict[str, Any]:
    """The tensors of a pytorch_model.bin, by the loader that builds tensors and nothing else."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError:
        raise UsageError(
            f"{path} is damaged, or holds something other than tensors, which may be code; it was not run"
        ) from None
    except FileNotFoundError:
        raise
    except Exception as error:  # where the reading of a damaged pickle fails cannot be foreseen
        raise UsageError(f"{path} cannot be read ({type(error).__name__}: {str(error).partition(chr(10))[0]})") from None
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UsageError(f"{path} holds no dictionary of tensors")
    return content


def _resized(tensor: Tensor, shape: torch.Size, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """A copy of `tensor` with the first dimension of `shape`: cut, or filled up with the mean of its rows."""
    n = min(len(tensor), shape[0])
    copy = torch.empty(shape, dtype=dtype, device=device)
    copy[:n] = tensor[:n]
    if n < shape[0]:
        copy[n:] = tensor.float().mean(dim=0).to(dtype)
    return copy
