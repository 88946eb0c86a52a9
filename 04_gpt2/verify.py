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
from .bpe import END_OF_TEXT, BytePairTokenizer
from .config import PRESETS
from .export import write_tokenizer
from .generate import Sampling, sample
from .tokenizer import GPT2_NAMES, gpt2_tokenizer, open_tokenizer
from .weights import TRANSPOSED, from_pretrained, read_shape, require_fit

TEXT = """The harbour master counted the boats twice. At 6:30 there had been forty-one of them; now, with the fog lifting off
the water, there were forty-two. "That one isn't ours," said the boy, and pointed at a grey hull near the pier."""
NEW_TOKENS = 16
# Of the largest entry: ten times what two orders of float32's sums make of it, even where a few numbers of the residual stream
# are thousands of times the others, as in the published models. In a fresh 124M, GELU's exact form
# in place of GPT-2's lies above all three.
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
            folder = hub.find(name, with_tokenizer=True)
            print(f"{name} as it lies in {folder}")
        except hub.UnreachableError as error:
            if name not in GPT2_NAMES:
                raise
            print(f"the published weights are not at hand: {error}")
            print(f"so the same proof is done on a freshly initialised model of {name}'s size, as transformers saves it")
            folder = fresh(name, Path(work) / "fresh")
        has_tokenizer = any((folder / file).exists() for file in (hub.TOKENIZER, hub.VOCABULARY))
        tokenizer = open_tokenizer(folder if has_tokenizer else "gpt2")
        require_fit(folder, tokenizer)
        block_size = read_shape(folder).block_size
        if block_size < 2:
            raise UsageError(f"the model in {folder} has {block_size} position; with fewer than 2 there is no loss to compare")
        ids = tokenizer.encode(TEXT)[:block_size]
        from_pretrained(folder)  # so that what is wrong with the files is said before transformers meets it
        theirs = their_results(folder, ids, tokenizer, Path(work))
        all_equal = compare(folder, ids, tokenizer, theirs, Path(work))
        if has_tokenizer:
            # Tokens that a tokenizer puts around every text are none of the text's.
            written = transformers.AutoTokenizer.from_pretrained(folder).encode(TEXT, add_special_tokens=False)
            all_equal &= _line_of_equal(
                f"token ids of a text, {len(tokenizer.encode(TEXT))}", tokenizer.encode(TEXT) == written
            )
    return all_equal


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


def their_results(folder: Path, ids: list[int], tokenizer: BytePairTokenizer, work: Path) -> dict[str, Any]:
    """Logits (1, T, V), loss and greedy continuation of transformers' model; its gradients go to `work`, a file for each."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    idx = torch.tensor([ids])
    out = model(idx, labels=idx)
    out.loss.backward()
    for name, parameter in model.named_parameters():
        save_file({"gradient": parameter.grad.contiguous()}, work / f"{name}.safetensors")
        parameter.grad = None
    n_prompt, n_new = _lengths(ids)
    prompt, end = idx[:, :n_prompt], tokenizer.specials[END_OF_TEXT]
    padding = list(range(tokenizer.vocab_size, model.config.vocab_size))
    model.generation_config = GenerationConfig()  # greedily means greedily, whatever the folder asks for
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = end
    greedily = {"max_new_tokens": n_new, "do_sample": False, "suppress_tokens": padding or None}
    [written] = model.generate(prompt, attention_mask=torch.ones_like(prompt), **greedily)[:, n_prompt:].tolist()
    written = written[: written.index(end)] if end in written else written
    return {"logits": out.logits.detach(), "loss": out.loss.item(), "written": written}


def compare(folder: Path, ids: list[int], tokenizer: BytePairTokenizer, theirs: dict[str, Any], work: Path) -> bool:
    """Compute the same with our model, print a line for each comparison, then the verdict -> whether all is equal."""
    model, idx = from_pretrained(folder), torch.tensor([ids])
    with torch.no_grad():
        logits = model(idx)
    loss = model(idx[:, :-1], idx[:, 1:])
    loss.backward()
    print(f"{'largest difference, of the largest entry':<50}{'found':>9}{'allowed':>9}")
    all_equal = _line(f"logits {tuple(logits.shape)}", _difference(logits, theirs["logits"]), ALLOWED["logits"])
    of_loss = abs(loss.item() - theirs["loss"]) / theirs["loss"]
    all_equal &= _line(f"loss, {loss.item():.6f} nats per token", of_loss, ALLOWED["loss"])
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
    n_prompt, n_new = _lengths(ids)
    [written] = sample(model, [ids[:n_prompt]], tokenizer, Sampling(n_new, temperature=0), seed=0)
    all_equal &= _line_of_equal(f"greedy continuation, {len(written)} tokens", written == theirs["written"])
    verdict = "the same function" if all_equal else "ANOTHER FUNCTION"
    print(f"with these {model.config.n_params:,} numbers this project's model is {verdict}")
    return all_equal


def _line_of_equal(what: str, equal: bool) -> bool:
    print(f"{what:<50}{'equal' if equal else 'DIFFERENT':>9}")
    return equal


def _line(what: str, difference: float, allowed: float) -> bool:
    equal = difference <= allowed  # not so for nan
    print(f"{what:<50}{difference:>9.1e}{allowed:>9.0e}{'' if equal else '  DIFFERENT'}")
    return equal


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=torch.finfo(torch.float32).tiny)).item()


def _lengths(ids: list[int]) -> tuple[int, int]:
    """How many of the ids are a prompt, and how many are written after it, in a model that sees no more than these ids."""
    n_prompt = max(1, len(ids) - NEW_TOKENS)
    return n_prompt, min(NEW_TOKENS, len(ids) - n_prompt)
