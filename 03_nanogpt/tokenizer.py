"""The smallest tokenizer there is: a character is a token, and its id is its ASCII code, 0 to 127.

There is nothing to learn and nothing to store; what a vocabulary has to do is all here. Text that is not ASCII is made so by
a table, and whoever asked is told what became of it.
"""

import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable
from operator import index

VOCAB_SIZE = 128  # ANSI X3.4-1986: seven bits

# What has no accent to lose, but a usual way to write it on a typewriter.
REPLACEMENTS = {
    **dict.fromkeys("‘’‚‛′ʼ´", "'"),
    **dict.fromkeys("“”„‟″«»", '"'),
    **dict.fromkeys("‐‑‒–—―−\u00ad", "-"),  # the last one is the soft hyphen
    **{"…": "...", "•": "*", "×": "x", "⁄": "/"},
    **{"æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"},
    **{"đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i"},
}
UNKNOWN = "?"
CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {127: "␡"}


def encode(text: str) -> list[int]:
    """The id of each character, its ASCII code: encode("Hi!") is [72, 105, 33].

    What is not ASCII is replaced as by `to_ascii`, and a warning says what was.
    """
    ascii_text, replaced = to_ascii(text)
    if replaced:
        warnings.warn(report(replaced), stacklevel=2)
    return list(ascii_text.encode("ascii"))


def decode(ids: Iterable[int]) -> str:
    """The text whose ids these are: decode([72, 105, 33]) is "Hi!". Raises ValueError for an id that is no ASCII code."""
    codes = [index(i) for i in ids]
    for place, code in enumerate(codes):
        if not 0 <= code < VOCAB_SIZE:
            raise ValueError(f"id {code} at place {place} is not an ASCII code; 0 to {VOCAB_SIZE - 1} are expected")
    return bytes(codes).decode("ascii")


def to_ascii(text: str) -> tuple[str, Counter[str]]:
    """`text` with a replacement for each character that is not ASCII, and how often each of these was there.

    A character goes by the table REPLACEMENTS; else accents and other forms are stripped (é to e, ² to 2; Unicode's
    compatibility decomposition); else it becomes a question mark. None is dropped.
    """
    if text.isascii():
        return text, Counter()
    # the Kelvin sign and two others become ASCII by NFC already
    twins = {c: n for c, n in Counter(text).items() if not c.isascii() and unicodedata.normalize("NFC", c).isascii()}
    text = unicodedata.normalize("NFC", text)  # an accent that stands behind its letter joins it
    replaced = Counter(character for character in text if not character.isascii())
    return text.translate({ord(character): replacement(character) for character in replaced}), replaced + Counter(twins)


def replacement(character: str) -> str:
    """What stands for a character that is not ASCII; at least one ASCII character."""
    if character in REPLACEMENTS:
        return REPLACEMENTS[character]
    parts = unicodedata.normalize("NFKD", character)
    plain = "".join(REPLACEMENTS.get(part, part) for part in parts if not unicodedata.combining(part))
    return plain if plain.isascii() and (plain.strip() or character.isspace()) else UNKNOWN


def printable(text: str) -> str:
    """ASCII text for a terminal: control codes but tab and new line are shown as signs (ESC as ␛) and do nothing."""
    return text.translate(CONTROL_PICTURES)


def report(replaced: Counter[str]) -> str:
    """One line about what `to_ascii` has replaced: "3 characters are not ASCII: ’ became ' (2 times), é became e (once)"."""
    most = replaced.most_common(8)
    listed = ", ".join(
        f"{shown(c)} became {replacement(c)} ({n:,} times)" if n > 1 else f"{shown(c)} became {replacement(c)} (once)"
        for c, n in most
    )
    others = f", and {len(replaced) - len(most)} more kinds" if len(replaced) > len(most) else ""
    total = replaced.total()
    return f"{total:,} {'characters are' if total > 1 else 'character is'} not ASCII: {listed}{others}"


def shown(character: str) -> str:
    """The character if it can be seen, else its code point."""
    return character if character.isprintable() and not unicodedata.combining(character) else f"U+{ord(character):04X}"
