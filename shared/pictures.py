"""The pictures that the README shows from notebooks: the same bytes, so that neither can fall behind the other.

Run it after a notebook has changed: python -m shared.pictures
"""

import sys
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass

import nbformat

from .cli import RunError, command, parse
from .exercises import ROOT

# Name of the file in assets/: the notebook, and the id of the cell whose output it is.
FROM_NOTEBOOKS = {
    "chain-rule.png": ("01_micrograd/1_derivatives_and_the_chain_rule.ipynb", "chain-rule-by-hand"),
    "two-moons.png": ("01_micrograd/3_training_a_neural_network.ipynb", "the-border-bends"),
    "vowels.png": ("02_makemore/3_multilayer_perceptron.ipynb", "the-vowels-find-each-other"),
    "nonagpt.png": ("03_nanogpt/3_nonagpt.ipynb", "the-whole-model"),
    "tokens.png": ("04_gpt2/1_tokenization.ipynb", "two-vocabularies"),
    "weights.png": ("04_gpt2/2_the_model_and_its_weights.ipynb", "where-the-weights-sit"),
    "gradients.png": ("02_makemore/4_activations_gradients_and_normalization.ipynb", "sick-and-mended-gradients"),
}


@dataclass(frozen=True)
class PicturesConfig:
    """What `python -m shared.pictures` does: it takes no flags."""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write each picture into assets/."""
    parse(
        PicturesConfig(),
        argv,
        prog="python -m shared.pictures",
        description="Copy the README's pictures out of the notebooks into assets/.",
        examples=["python -m shared.pictures"],
    )
    for name in FROM_NOTEBOOKS:
        (ROOT / "assets" / name).write_bytes(picture(name))
        print(f"assets/{name}")
    return 0


def picture(name: str) -> bytes:
    """The PNG that stands in the notebook. Raises RunError if the cell is gone or shows none."""
    notebook, cell_id = FROM_NOTEBOOKS[name]
    for cell in nbformat.read(ROOT / notebook, as_version=4).cells:
        if cell.id == cell_id:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    return b64decode(output.data["image/png"])
    raise RunError(f"{notebook} has no cell {cell_id} with a picture; run the notebook, or correct shared/pictures.py")


if __name__ == "__main__":
    sys.exit(main())
