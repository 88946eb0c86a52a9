"""Text from a trained NonaGPT, character by character. Run it: python -m 03_nanogpt.generate --prompt "ROMEO:" """

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch

from shared.cli import UsageError, command, parse
from shared.devices import DeviceName, choose_device

from .checkpoint import load
from .tokenizer import decode, encode, printable, report, to_ascii


@dataclass(frozen=True)
class GenerateConfig:
    """What `python -m 03_nanogpt.generate` does."""

    checkpoint: Annotated[str, "folder of a training run"] = "runs/nanogpt"
    prompt: Annotated[str, "text to go on from"] = "\n"
    max_new_tokens: Annotated[int, "characters to write"] = 500
    temperature: Annotated[float, "below 1 safer, above 1 wilder; 0 always takes the likeliest"] = 0.8
    top_k: Annotated[int | None, "choose among the K likeliest characters only; left out, among all"] = None
    seed: Annotated[int, "seed of the choices"] = 1337
    device: Annotated[DeviceName, "where to compute; auto takes cuda, else mps, else cpu"] = "auto"

    def __post_init__(self):
        if self.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; at least 0 is expected")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; a number of at least 0 is expected")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; at least 1 is expected")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; at least 0 and below 2**63 is expected")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a trained model's continuation of a prompt, each character as soon as it is drawn."""
    config = parse(
        GenerateConfig(),
        argv,
        prog="python -m 03_nanogpt.generate",
        description="Write text with a model that 03_nanogpt.train has trained.",
        examples=[
            'python -m 03_nanogpt.generate --prompt "ROMEO:"',
            "python -m 03_nanogpt.generate --checkpoint runs/mine --temperature 1 --top-k 10",
        ],
    )
    model = load(config.checkpoint, choose_device(config.device))
    prompt, replaced = to_ascii(config.prompt)
    if not prompt:
        raise UsageError("--prompt is empty; at least one character to go on from is expected, such as a new line")
    if replaced:
        print(f"note: in the prompt {report(replaced)}", file=sys.stderr)
    if len(prompt) > model.config.block_size:
        print(f"note: the model sees the last {model.config.block_size} characters at most", file=sys.stderr)
    idx = torch.tensor([encode(prompt)], device=model.lm_head.weight.device)
    generator = torch.Generator(idx.device).manual_seed(config.seed)
    print(printable(prompt), end="", flush=True)
    for _ in range(config.max_new_tokens):
        idx = model.generate(idx, 1, config.temperature, config.top_k, generator)
        print(printable(decode(idx[0, -1:].tolist())), end="", flush=True)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
