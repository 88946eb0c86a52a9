"""Published weights in, a trained model out to the rest of the world: prove the one, write the other.

Run it: python -m 04_gpt2.pretrained verify gpt2
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from shared.cli import UsageError, command, parse

from .export import export
from .verify import verify


@dataclass(frozen=True)
class PretrainedConfig:
    """What `python -m 04_gpt2.pretrained` does."""

    what: Annotated[Literal["verify", "export"], "verify: prove a model equal to transformers'; export: write a folder"]
    name: Annotated[str, "verify: gpt2, gpt2-medium, gpt2-large, gpt2-xl, another name on the hub, or a folder"] = "gpt2"
    checkpoint: Annotated[str, "export: folder of a training run (its newest checkpoint) or of one checkpoint"] = (
        "runs/shakespeare"
    )
    to: Annotated[str, "export: the folder to write, in the form that Hugging Face's libraries open"] = ""
    overwrite: Annotated[bool, "export: replace what an earlier export has left there"] = False


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
        return 0 if verify(config.name) else 1
    if not config.to:
        raise UsageError("--to is missing: the folder to write")
    print(export(Path(config.checkpoint), Path(config.to), config.overwrite))
    return 0


if __name__ == "__main__":
    sys.exit(main())
