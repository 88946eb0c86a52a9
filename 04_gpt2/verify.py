"""The proof that this GPT is GPT-2: the same weights here and in Hugging Face's transformers, and everything compared.

One model is in memory at a time; the gradients of the first wait on the disk, so twice the model's size is enough memory.
"""

import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.cli import UsageError

from . import hub
from .bpe import BytePairTokenizer
from .config import PRESETS
from .export import write_tokenizer
from .generate import Sampling, sample
from .tokenizer import gpt2_tokenizer, open_tokenizer
from .weights import TRANSPOSED, from_pretrained, read_shape

SIZES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
TEXT = """The harbour master counted the boats twice. At 6:30 there had been forty-one of them; now, with the fog lifting off
the water, there were forty-two. "That one isn't ours," said the boy, and pointed at a grey hull near the pier."""
NEW_TOKENS = 16
# Of the largest entry: ten times what two orders of float32's sums make of it, even where a few numbers of the residual stream
# are thousands of times the others, as in the published models. GELU's exact form in place of GPT-2's lies above all three.
ALLOWED = {"logits": 1e-5, "loss": 1e-6, "gradients": 1e-4}


def verify(name: str) -> bool:
    """Compare the model `name` (on the hub, or a folder) with transformers', print a table -> whether all is equal.

    If the hub cannot be reached and `name` is one of OpenAI's four, a freshly initialised model of that size is compared, and
    that is said. Raises UsageError if transformers is not installed, or as `hub.find` and `from_pretrained` do.
    """
    try:
        import transformers
    except ModuleNotFoundError:
        raise UsageError('the peer transformers is not installed; pip install -e ".[test]" brings it') from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with TemporaryDirectory() as work:
        try:
            folder = hub.find(name)
            print(f"{name} as it lies in {folder}")
        except hub.UnreachableError as error:
            if name not in SIZES:
                raise
            print(f"the published weights are not at hand: {error}")
            print(f"so the same proof is done on a freshly initialised model of {name}'s size, as transformers saves it")
            folder = fresh(name, Path(work) / "fresh")
        has_tokenizer = any((folder / file).exists() for file in hub.TOKENIZER)
        tokenizer = open_tokenizer(folder if has_tokenizer else "gpt2")
        ids = tokenizer.encode(TEXT)[: read_shape(folder).block_size]
        if max(ids) >= read_shape(folder).vocab_size:
            raise UsageError(f"the vocabulary of {folder} does not fit its weights: the text has the id {max(ids)}")
        theirs = their_results(folder, ids, Path(work))
        if has_tokenizer:
            theirs["ids"] = transformers.AutoTokenizer.from_pretrained(folder).encode(TEXT)[: len(ids)]
        print(f"{'largest difference, of the largest entry':<50}{'found':>9}{'allowed':>9}")
        return compare(folder, tokenizer, ids, theirs, Path(work))


def fresh(name: str, folder: Path) -> Path:
    """A folder with transformers' own GPT-2 of that size and random weights, biases too: equal zeros would prove little."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = PRESETS[name].model
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=shape.n_layer, n_head=shape.n_head, n_embd=shape.n_embd))
    for tensor_name, parameter in model.named_parameters():
        if tensor_name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder)
    write_tokenizer(folder, gpt2_tokenizer(), shape)
    return folder


def their_results(folder: Path, ids: list[int], work: Path) -> dict[str, Any]:
    """Logits, loss and greedy continuation of transformers' model; its gradients are written to `work`, a file for each."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    idx = torch.tensor([ids])
    out = model(idx, labels=idx)
    out.loss.backward()
    for name, parameter in model.named_parameters():
        save_file({"gradient": parameter.grad.contiguous()}, work / f"{name}.safetensors")
        parameter.grad = None
    prompt, end = idx[:, : _prompt_length(ids)], model.config.eos_token_id
    greedily = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(prompt)}
    written = model.generate(prompt, **greedily)[0, prompt.shape[1] :].tolist()
    return {"logits": out.logits.detach(), "loss": out.loss.item(), "written": written[: -1 if written[-1] == end else None]}


def compare(folder: Path, tokenizer: BytePairTokenizer, ids: list[int], theirs: dict[str, Any], work: Path) -> bool:
    """Compute the same with our model, print a line for each comparison and the verdict -> whether all is equal."""
    model, idx = from_pretrained(folder), torch.tensor([ids])
    with torch.no_grad():
        logits, _ = model(idx)
    _, loss = model(idx[:, :-1], idx[:, 1:])
    loss.backward()
    all_equal = _line(f"logits {tuple(logits.shape)}", _difference(logits, theirs["logits"]), ALLOWED["logits"])
    of_loss = abs(loss.item() - theirs["loss"]) / theirs["loss"]
    all_equal &= _line(f"loss on {len(ids) - 1} tokens, {loss.item():.6f}", of_loss, ALLOWED["loss"])
    worst: dict[str, list[float]] = {}  # kind of tensor -> difference in each block
    for name, parameter in model.named_parameters():
        gradient = load_file(work / f"{name}.safetensors")["gradient"]
        assert parameter.grad is not None
        difference = _difference(parameter.grad, gradient.t() if name.endswith(TRANSPOSED) else gradient)
        worst.setdefault(re.sub(r"\.\d+\.", ".*.", name.removeprefix("transformer.")), []).append(difference)
        parameter.grad = None
    for kind, differences in worst.items():
        times = f" ({len(differences)} times)" if len(differences) > 1 else ""
        largest = max(differences, key=lambda difference: (math.isnan(difference), difference))
        all_equal &= _line(f"gradient of {kind}{times}", largest, ALLOWED["gradients"])
    [written] = sample(model, [ids[: _prompt_length(ids)]], tokenizer, Sampling(NEW_TOKENS, temperature=0), seed=0)
    checks = {f"greedy continuation, {len(written)} tokens": written == theirs["written"]}
    if "ids" in theirs:
        checks[f"token ids of a text, {len(ids)}"] = ids == theirs["ids"]
    for what, equal in checks.items():
        print(f"{what:<50}{'equal' if equal else 'DIFFERENT':>9}")
        all_equal &= equal
    verdict = "the same function" if all_equal else "ANOTHER FUNCTION"
    print(f"with these {model.config.n_params:,} numbers this project's model is {verdict}")
    return all_equal


def _line(what: str, difference: float, allowed: float) -> bool:
    equal = difference <= allowed  # not so for nan
    print(f"{what:<50}{difference:>9.1e}{allowed:>9.0e}{'' if equal else '  DIFFERENT'}")
    return equal


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=torch.finfo(torch.float32).tiny)).item()


def _prompt_length(ids: list[int]) -> int:
    """Of a prompt that leaves room for what is written after it, in models that see no more than these ids."""
    return max(1, len(ids) - NEW_TOKENS)
