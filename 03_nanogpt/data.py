"""From a text to batches: what is learned from, what is held out, and the windows that a step of training reads."""

from collections.abc import Callable

import torch
from torch import Tensor

from shared import corpora
from shared.cli import UsageError

from .tokenizer import report, to_ascii

TEXTS: dict[str, Callable[[], str]] = {"tinyshakespeare": corpora.tinyshakespeare, "shakespeare": corpora.shakespeare}


def load_text(name: str) -> str:
    """The text called `name` in TEXTS, else that of the UTF-8 file `name`. Raises UsageError if there is no such file."""
    return TEXTS[name]() if name in TEXTS else corpora.read_text(name)


def split(text: str) -> tuple[str, str]:
    """The first nine tenths to learn from, and the last tenth, cut at a character, to validate on."""
    n_train = int(0.9 * len(text))
    return text[:n_train], text[n_train:]


def prepare(name: str, block_size: int, say: Callable[[str], object]) -> tuple[str, str]:
    """What to learn from and what to validate on, all ASCII; `say` is told what was replaced, and how much there is.

    Raises UsageError if there is no such text, or if a part of it is not longer than `block_size`.
    """
    text = load_text(name)
    if n_line_ends := text.count("\r\n"):
        text = text.replace("\r\n", "\n")
        say(f"{name}: {n_line_ends:,} line ends of two characters became one")
    text, replaced = to_ascii(text)
    if replaced:
        say(f"{name}: {report(replaced)}")
    train_text, val_text = split(text)
    if min(len(train_text), len(val_text)) <= block_size:
        raise UsageError(
            f"{name} is too short: its {len(text):,} characters leave {len(val_text):,} to validate on, and more than the "
            f"block size of {block_size} are needed; take a longer text"
        )
    say(f"{name}: {len(train_text):,} characters to learn from, {len(val_text):,} to validate on")
    return train_text, val_text


def random_batch(ids: Tensor, batch_size: int, block_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`batch_size` windows from random places of `ids` (N,): inputs and targets, both (B, T), on the device of `ids`.

    A window is T + 1 ids: the first T are the inputs, the last T the targets, so that each window trains T predictions.
    Raises ValueError if N is not above block_size.
    """
    n_places = len(ids) - block_size
    if n_places < 1:
        raise ValueError(f"{len(ids)} characters do not hold a window of block_size {block_size} and the character after it")
    starts = torch.randint(n_places, (batch_size, 1), generator=generator)
    windows = ids[(starts + torch.arange(block_size + 1)).to(ids.device)]  # (B, T + 1)
    return windows[:, :-1], windows[:, 1:]
