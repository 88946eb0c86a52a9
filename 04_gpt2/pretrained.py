"""Published weights in, a trained model out to the rest of the world: prove the one, write the other.

Run it: python -m 04_gpt2.pretrained verify gpt2
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from shared.cli import command, parse

from .export import export
from .verify import verify


@dataclass(frozen=True)
class PretrainedConfig:
    """What `python -m 04_gpt2.pretrained` does."""

    what: Annotated[Literal["verify", "export"], "verify: prove a model equal to transformers'; export: write a folder"]
    name: Annotated[str, "verify: gpt2 (if left out), gpt2-medium, gpt2-large, gpt2-xl, another name, or a folder"] = ""
    checkpoint: Annotated[str, "export: folder of a training run (its newest checkpoint) or of one checkpoint"] = ""
    to: Annotated[str, "export: the new folder to write, in the form that Hugging Face's libraries open"] = ""

    def __post_init__(self):
        if self.what == "verify" and (self.checkpoint or self.to):
            raise ValueError("verify takes neither --checkpoint nor --to: export a run first, then verify the folder")
        if self.what == "export" and (self.name or not self.checkpoint or not self.to):
            raise ValueError("export takes --checkpoint, the run, and --to, the new folder, and nothing else")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Verify a published model, or export a trained one."""
    config = parse(
        PretrainedConfig("verify"),
        argv,
        prog="python -m 04_gpt2.pretrained",
        description="Prove that this GPT is GPT-2, or hand a trained model to Hugging Face's libraries.",
        examples=[
            "python -m 04_gpt2.pretrained verify gpt2",
            "python -m 04_gpt2.pretrained export --checkpoint runs/shakespeare --to runs/shakespeare-hf",
            "python -m 04_gpt2.pretrained verify runs/shakespeare-hf",
        ],
        positional="what [name]",
    )
    if config.what == "verify":
        return 0 if verify(config.name or "gpt2") else 1
    print(export(Path(config.checkpoint), Path(config.to)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
