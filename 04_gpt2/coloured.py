"""A text in the colours of its tokens, for terminals and for notebooks: where one ends, the colour changes."""

import html
import os
from collections.abc import Iterable
from typing import TextIO

from .bpe import BytePairTokenizer

# Neighbours differ in lightness too, so that the edges show without colours. ANSI's 256-colour numbers, and the same for HTML.
ANSI = (153, 222, 157, 217, 189, 186)
HTML = ("#afd7ff", "#ffd787", "#afffaf", "#ffafaf", "#d7d7ff", "#d7d787")


def terminal(tokenizer: BytePairTokenizer, ids: Iterable[int], with_colours: bool = True) -> str:
    """The text in colours (or with · between the tokens), then a line for each token: id, bytes in hexadecimal, text."""
    ids = list(ids)
    pieces = [piece(tokenizer, i) for i in ids]
    if with_colours:
        painted = [f"\x1b[30;48;5;{ANSI[n % len(ANSI)]}m{text}\x1b[0m" for n, text in enumerate(pieces)]
        # A line's end takes no colour, which some terminals would draw to the right edge.
        shown = "".join(text.replace("\n", "\x1b[0m\n") for text in painted)
    else:
        shown = "·".join(pieces)
    texts = ['"' + text.replace("\n", "\\n") + '"' for text in pieces]
    lines = [f"{i:>6}  {tokenizer.token_bytes(i).hex(' '):<24}  {text}" for i, text in zip(ids, texts, strict=True)]
    n_bytes = sum(len(tokenizer.token_bytes(i)) for i in ids)
    counted = f"tokens: {len(ids)}, bytes: {n_bytes}, bytes a token: {n_bytes / max(1, len(ids)):.2f}"
    return "\n".join([shown, "", f"{'id':>6}  {'bytes':<24}  text", *lines, "", counted])


def as_html(tokenizer: BytePairTokenizer, ids: Iterable[int]) -> str:
    """The text in colours with each token's id below it, as a piece of HTML; its bytes show when the pointer rests on it."""
    boxes = []
    for n, i in enumerate(ids):
        text = html.escape(piece(tokenizer, i)).replace("\n", "⏎")
        boxes.append(
            f'<span title="{tokenizer.token_bytes(i).hex(" ")}" style="display: inline-block; text-align: center; '
            f'background: {HTML[n % len(HTML)]}; color: #000; margin: 1px; padding: 1px 2px; white-space: pre">'
            f"<code>{text}</code><br><small>{i}</small></span>"
        )
    return "<div>" + "\n".join(boxes) + "</div>"


def piece(tokenizer: BytePairTokenizer, i: int) -> str:
    r"""A token's text; bytes that are no whole character show as \xe4, invisible characters but line ends as \u00a0."""
    text = tokenizer.token_bytes(i).decode("utf-8", errors="backslashreplace")
    return "".join(c if c == "\n" or c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    r"""\t, \x1c, \u00a0: what stands for a byte beyond ASCII has an x, what stands for a character a u."""
    is_latin = "\x80" <= character <= "\xff"
    return f"\\u{ord(character):04x}" if is_latin else character.encode("unicode_escape").decode()


def shows_colours(stream: TextIO) -> bool:
    """Whether to colour: on a terminal, unless the user has set NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")
