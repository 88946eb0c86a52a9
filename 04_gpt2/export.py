"""A trained model as a folder that Hugging Face's libraries open as their own: weights, tokenizer, model card.

The way back is `GPT.from_pretrained(folder)`.
"""

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from shared.cli import RunError, UsageError

from . import checkpoint, hub, tokenizer_json
from .bpe import END_OF_TEXT, BytePairTokenizer
from .config import GPTConfig
from .evaluate import METRICS
from .model import GPT, TIED
from .sealed import PARTIAL, sealed
from .weights import TRANSPOSED

CARD = "README.md"


def export(source: Path, to: Path) -> str:
    """Write the model of a run's newest checkpoint, or of one checkpoint, to the new folder `to` -> what can be done with it.

    Raises UsageError if `to` is there already, or as `checkpoint.load` does; RunError if it cannot be written. The folder is
    there whole or not at all.
    """
    source, to = source.absolute(), to.absolute()
    for path in (to, to.with_name(to.name + PARTIAL)):
        if os.path.lexists(path):
            raise UsageError(f"{path} is there already, and an export replaces nothing; name a new folder, or remove it first")
    folder = checkpoint.find(source)
    model, tokenizer = checkpoint.load(folder, torch.device("cpu"))
    card = _card(folder, to.name, model, tokenizer)
    try:
        with sealed(to) as new:
            _write_model(new, model, tokenizer)
            write_tokenizer(new, tokenizer, model.config)
            (new / CARD).write_text(card, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{to} could not be written: {error}") from None
    return (
        f"{to} holds {model.config.n_params:,} parameters; transformers.AutoModelForCausalLM and AutoTokenizer open it, and\n"
        f"python -m 04_gpt2.pretrained verify {shlex.quote(str(to))} holds them against this project's model"
    )


def write_tokenizer(folder: Path, tokenizer: BytePairTokenizer, shape: GPTConfig) -> None:
    """Write what `transformers.AutoTokenizer` needs: tokenizer.json and tokenizer_config.json."""
    tokenizer_json.save(tokenizer, folder / hub.TOKENIZER)
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # reads tokenizer.json as it is
        "model_max_length": shape.block_size,
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": END_OF_TEXT for role in ("bos", "eos", "unk", "pad")},
    }
    _write_json(folder / "tokenizer_config.json", about)


def _write_model(folder: Path, model: GPT, tokenizer: BytePairTokenizer) -> None:
    shape, end = model.config, tokenizer.specials[END_OF_TEXT]
    ends = {"bos_token_id": end, "eos_token_id": end}
    _write_json(
        folder / hub.CONFIG,
        {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": shape.vocab_size,
            "n_positions": shape.block_size,
            "n_embd": shape.n_embd,
            "n_layer": shape.n_layer,
            "n_head": shape.n_head,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "resid_pdrop": shape.dropout,
            "embd_pdrop": shape.dropout,
            "attn_pdrop": shape.dropout,
            "tie_word_embeddings": True,
            "dtype": "float32",
            **ends,
        },
    )
    padding = list(range(tokenizer.vocab_size, shape.vocab_size))  # rows of the table that stand for nothing
    chooses = {**ends, "pad_token_id": end} | ({"suppress_tokens": padding} if padding else {})
    _write_json(folder / "generation_config.json", chooses)
    weights = {
        name: (tensor.t() if name.endswith(TRANSPOSED) else tensor).contiguous()
        for name, tensor in model.state_dict().items()
        if name != TIED
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copymode(folder / hub.CONFIG, folder / "model.safetensors")  # safetensors lets only the owner read


def _card(folder: Path, title: str, model: GPT, tokenizer: BytePairTokenizer) -> str:
    """The model card: what the model is, what it learned from, how well, how to use it."""
    settings, state, shape = checkpoint.settings(folder), checkpoint.state(folder), model.config
    origin = "learned from the training part" if settings["tokenizer"] == "bpe" else "GPT-2's own"
    facts = {
        "parameters": f"{shape.n_params:,}",
        "context": f"{shape.block_size:,} tokens",
        "layers, heads, width": f"{shape.n_layer}, {shape.n_head}, {shape.n_embd}",
        "token table": f"{shape.vocab_size:,} rows (tied to the output head)",
        "byte-level BPE": f"{tokenizer.vocab_size:,} ids, {origin}",
        "data": f"{Path(settings['data']).name}, its last tenth held out for validation",
        "SHA-256 of the tokens": state["data_sha256"],
        "updates": f"{state['step']:,} of {settings['steps']:,}, {settings['tokens_per_step']:,} tokens each",
        "optimizer": f"{settings['optimizer']}, learning rate {settings['lr']:g}, weight decay {settings['weight_decay']:g}",
        "seed": settings["seed"],
        **_losses(folder, state["step"], settings["eval_tokens"]),
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- gpt2
---

# {title}

A language model of GPT-2's architecture, trained from random weights.

| | |
| --- | --- |
{rows}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # or the path of the folder that this file lies in
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
prompt = tokenizer("{END_OF_TEXT}", return_tensors="pt")
text = model.generate(**prompt, max_new_tokens={min(50, shape.block_size // 2)}, do_sample=True, top_p=0.9)
print(tokenizer.decode(text[0], skip_special_tokens=True))
```

It writes what its training text makes likely, true or not. In a text to be encoded, `{END_OF_TEXT}` becomes the special token.
"""


def _losses(folder: Path, step: int, eval_tokens: int) -> dict[str, str]:
    """What the run's metrics.jsonl says of this step; nothing, in words, if the checkpoint does not lie in its run."""
    metrics = folder.parent.parent / METRICS
    if folder.parent.name != checkpoint.CHECKPOINTS or not metrics.is_file():
        return {"losses": "not recorded beside this checkpoint"}
    lines = metrics.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if line.endswith("}")]  # the last line of a run may be half written
    at: dict[str, Any] = {name: value for record in records if record["step"] == step for name, value in record.items()}
    named = {
        "training loss of its last update": ("loss", "nats per token"),
        f"validation loss, first {eval_tokens:,} tokens": ("val_loss", "nats per token"),
        "validation loss, all": ("whole_val_loss", "nats per token"),
        "validation, all": ("whole_val_bits_per_byte", "bits per byte"),
        "counting n-grams, the same text": ("counting_bits_per_byte", "bits per byte"),
    }
    return {label: f"{at[key]:.4f} {unit}" for label, (key, unit) in named.items() if key in at}


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
