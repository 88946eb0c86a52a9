"""Text from a trained model, token by token. Run it: python -m 04_gpt2.generate --checkpoint runs/shakespeare"""

import codecs
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.cli import UsageError, command, parse
from shared.devices import DeviceName, choose_device

from .bpe import END_OF_TEXT, BytePairTokenizer
from .cache import KVCache
from .checkpoint import load
from .model import GPT, evaluation_mode
from .tokenizer import note_specials
from .weights import load_with_tokenizer


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Raises ValueError for numbers that cannot work."""

    max_new_tokens: Annotated[int, "tokens to write, if <|endoftext|> does not come before"] = 256
    temperature: Annotated[float, "below 1 bolder about the likely, above 1 wilder; 0 always takes the likeliest"] = 0.8
    top_k: Annotated[int | None, "choose among the K likeliest tokens only; left out, among all"] = None
    top_p: Annotated[float, "choose among the likeliest tokens that together reach this probability; 1 is all"] = 0.9

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; at least 1 is expected")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; a number of at least 0 is expected")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; at least 1 is expected")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; above 0 and at most 1 is expected")


@dataclass(frozen=True)
class GenerateConfig:
    """What `python -m 04_gpt2.generate` does."""

    checkpoint: Annotated[str, "folder of a training run (its newest checkpoint) or of one checkpoint"] = "runs/shakespeare"
    pretrained: Annotated[str, "in place of a checkpoint: gpt2 or another name on Hugging Face's hub, or such a folder"] = ""
    prompt: Annotated[str, "text to go on from (by default a new line); an empty one begins a new text"] = "\n"
    samples: Annotated[int, "texts written side by side; the first is shown as it grows"] = 1
    sampling: Sampling = Sampling()
    seed: Annotated[int, "seed of the choices"] = 1337
    device: Annotated[DeviceName, "where to compute; auto takes cuda, else mps, else cpu"] = "auto"

    def __post_init__(self):
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}; at least 1 is expected")
        if self.pretrained and self.checkpoint != "runs/shakespeare":
            raise ValueError("checkpoint and --pretrained both name a model; give one of them")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; at least 0 and below 2**63 is expected")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a trained model's continuation of a prompt."""
    config = parse(
        GenerateConfig(),
        argv,
        prog="python -m 04_gpt2.generate",
        description="Write text with a model that 04_gpt2.train has trained.",
        examples=[
            'python -m 04_gpt2.generate --prompt "ROMEO:"',
            "python -m 04_gpt2.generate --checkpoint runs/mine --samples 3 --temperature 1 --top-p 0.95",
            'python -m 04_gpt2.generate --pretrained gpt2-large --prompt "The meaning of life is"',
        ],
    )
    device = choose_device(config.device)
    model, tokenizer = load_with_tokenizer(config.pretrained, device) if config.pretrained else load(config.checkpoint, device)
    note_specials(config.prompt, tokenizer)
    prompt = encode_prompt(config.prompt, tokenizer)
    if len(prompt) > model.config.block_size:
        print(f"note: the model sees the last {model.config.block_size} of the {len(prompt)} tokens", file=sys.stderr)
    rows: list[list[int]] = [[] for _ in range(config.samples)]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may come in several tokens
    print(config.prompt, end="", flush=True)
    for column in generate(model, [prompt] * config.samples, tokenizer, config.sampling, config.seed):
        for row, i in zip(rows, column, strict=True):
            if i is not None:
                row.append(i)
        if column[0] is not None:
            print(decoder.decode(tokenizer.token_bytes(column[0])), end="", flush=True)
    print(decoder.decode(b"", final=True))
    for number, row in enumerate(rows[1:], start=2):
        print(f"\n--- sample {number} ---\n{config.prompt}{tokenizer.decode(row)}")
    return 0


def encode_prompt(prompt: str, tokenizer: BytePairTokenizer) -> list[int]:
    """The prompt's ids; <|endoftext|>, which stands before every text, if it is empty. Raises UsageError if it is not text."""
    try:
        return tokenizer.encode(prompt) or [tokenizer.specials[END_OF_TEXT]]
    except ValueError as error:
        raise UsageError(f"the prompt cannot be encoded: {error}") from None


def sample(
    model: GPT, prompts: Sequence[Sequence[int]], tokenizer: BytePairTokenizer, sampling: Sampling, seed: int
) -> list[list[int]]:
    """The ids that continue each of `prompts`, without them; arguments as for `generate`."""
    columns = generate(model, prompts, tokenizer, sampling, seed)
    rows: list[list[int]] = [[] for _ in prompts]
    for column in columns:
        for row, i in zip(rows, column, strict=True):
            if i is not None:
                row.append(i)
    return rows


@torch.no_grad()
def generate(
    model: GPT, prompts: Sequence[Sequence[int]], tokenizer: BytePairTokenizer, sampling: Sampling, seed: int
) -> Iterator[list[int | None]]:
    """Yield the next id of each text that begins with one of `prompts`, None for those that have ended.

    A text ends at <|endoftext|>, which is not yielded. Only ids that the tokenizer has are chosen. Prompts may differ in
    length; of a longer one the model sees the last block_size tokens. When a text no longer fits, its older half falls out of
    sight and the newer half is read again, as the beginning of a text: GPT-2's position embeddings are absolute, so keys and
    values cannot move. Thus each token is chosen with at least the block_size // 2 tokens before it in sight. The cache is
    filled anew for all texts then, each from what it has in sight. Raises ValueError for a prompt that is empty or holds an id
    that the model does not have.
    """
    for prompt in prompts:
        if not prompt or not 0 <= min(prompt) <= max(prompt) < model.config.vocab_size:
            wrong = [i for i in prompt if not 0 <= i < model.config.vocab_size]
            what = f"holds the id {wrong[0]}" if wrong else "is empty"
            raise ValueError(f"a prompt {what}; at least one id from 0 to {model.config.vocab_size - 1} is expected")
    rng = torch.Generator(model.device).manual_seed(seed)
    end = tokenizer.specials[END_OF_TEXT]
    block_size = model.config.block_size
    texts = [list(prompt[-block_size:]) for prompt in prompts]  # what is in sight of each
    cache = KVCache(model.config, len(texts), model.device, model.lm_head.weight.dtype)
    ended = [False] * len(texts)
    for _ in range(sampling.max_new_tokens):
        with evaluation_mode(model):
            logits = read(model, texts, cache)[:, : tokenizer.vocab_size].float()
        chosen = choose(logits, sampling, rng).tolist()
        ended = [before or i == end for before, i in zip(ended, chosen, strict=True)]
        if all(ended):
            break
        yield [None if over else i for over, i in zip(ended, chosen, strict=True)]
        for text, i in zip(texts, chosen, strict=True):
            text.append(i)
            if len(text) > block_size:
                del text[: -max(1, block_size // 2)]
                cache.clear()


def read(model: GPT, texts: Sequence[list[int]], cache: KVCache) -> Tensor:
    """Read what `cache` does not hold of each text yet, at least one token -> logits (B, V) for the token that follows it."""
    new = [text[length:] for text, length in zip(texts, cache.lengths, strict=True)]
    T = max(map(len, new))
    idx = torch.tensor([ids + [0] * (T - len(ids)) for ids in new], device=model.device)  # (B, T), padded on the right
    x = model.transformer(idx, cache)  # (B, T, C)
    cache.lengths = [len(text) for text in texts]
    last = torch.tensor([len(ids) - 1 for ids in new], device=model.device)
    return model.lm_head(x[torch.arange(len(texts), device=model.device), last])


def choose(logits: Tensor, sampling: Sampling, rng: torch.Generator) -> Tensor:
    """One id per row of `logits` (B, V), drawn as `sampling` says -> (B,)"""
    if sampling.temperature < torch.finfo(logits.dtype).tiny:  # 0, or what would be rounded to it
        return logits.argmax(dim=-1)
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature  # at most 0: no temperature overflows
    probabilities = F.softmax(filter_logits(logits, sampling.top_k, sampling.top_p), dim=-1)
    return torch.multinomial(probabilities, 1, generator=rng)[:, 0]


def filter_logits(logits: Tensor, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """`logits` (B, V) with -inf for all but the `top_k` likeliest, and of these for all but the smallest set of likeliest
    tokens whose probabilities reach `top_p` (Holtzman et al. 2020, "nucleus sampling"); the likeliest always stays."""
    if top_k is not None and top_k < logits.shape[-1]:
        smallest_kept = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = F.softmax(ordered, dim=-1)
        reached_before = probabilities.cumsum(dim=-1) - probabilities >= top_p
        logits = logits.masked_fill(reached_before.scatter(-1, order, reached_before), float("-inf"))
    return logits


if __name__ == "__main__":
    sys.exit(main())
