"""A character's id is its ASCII code, and nothing that is not ASCII disappears in silence."""

import unicodedata
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

tokenizer = import_module("03_nanogpt.tokenizer")

TWINS = "\u212a\u037e\u1fef"  # Kelvin sign, Greek question mark, Greek accent: Unicode's normal form turns them into ASCII

ascii_text = st.text(st.characters(max_codepoint=127))


@given(ascii_text)
def test_an_id_is_what_ord_says_and_decoding_gives_the_text_back(text):
    ids = tokenizer.encode(text)
    assert ids == [ord(character) for character in text]
    assert tokenizer.decode(ids) == text


def test_all_128_ids_have_their_character():
    assert tokenizer.decode(range(128)) == "".join(map(chr, range(128)))
    assert tokenizer.VOCAB_SIZE == 128


@pytest.mark.parametrize(("ids", "named"), [([72, 128], "id 128 at place 1"), ([-1], "id -1 at place 0"), ([200], "id 200")])
def test_decoding_what_is_no_ascii_code_names_id_and_range(ids, named):
    with pytest.raises(ValueError, match=f"{named}.*0 to 127 are expected"):
        tokenizer.decode(ids)


@pytest.mark.parametrize("ids", [[72.0], ["H"], [None]])
def test_decoding_takes_whole_numbers_only(ids):
    with pytest.raises(TypeError):
        tokenizer.decode(ids)


@given(ascii_text)
def test_ascii_text_stays_as_it_is_and_nothing_is_reported(text):
    assert tokenizer.to_ascii(text) == (text, {})


@given(st.text())
def test_no_character_is_dropped_and_each_replaced_one_is_counted(text):
    composed = unicodedata.normalize("NFC", text)
    result, replaced = tokenizer.to_ascii(text)
    assert result.isascii()
    assert result == "".join(c if c.isascii() else tokenizer.replacement(c) for c in composed)
    assert replaced.total() == sum(not c.isascii() for c in composed) + sum(c in TWINS for c in text)
    assert all(len(tokenizer.replacement(c)) >= 1 for c in replaced)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("’tis ‘so’", "'tis 'so'"),
        ("“Ay” — no – well…", '"Ay" - no - well...'),
        ("Café, Ünïcödé, Ñ", "Cafe, Unicode, N"),
        ("e\u0301", "e"),  # an accent of its own that belongs to the letter before it
        ("Cæsar, Œdipus, Straße", "Caesar, OEdipus, Strasse"),
        ("x²\u00a0ﬁ", "x2 fi"),
        ("☃漢字\u0301", "????"),
        ("\ufeffA", "?A"),
        ("½ŉǿ đðþı \u00ad´", "1/2'no ddthi -'"),  # the table after the decomposition too
        ("¨¯£", "???"),  # nothing is left of them but a space that they are not
        ("300\u212a\u037e\u1fef", "300K;`"),
    ],
)
def test_replacements_are_what_a_typist_would_write_else_a_question_mark(text, plain):
    assert tokenizer.to_ascii(text)[0] == plain


def test_every_accented_letter_of_latin_1_keeps_its_letter():
    for code in range(0xC0, 0x180):
        parts = unicodedata.normalize("NFD", chr(code))
        if len(parts) > 1 and parts[0].isascii():
            assert tokenizer.replacement(chr(code)) == parts[0]


def test_no_character_of_unicode_becomes_ascii_in_silence():
    for code in range(0x80, 0x20000):
        became, replaced = tokenizer.to_ascii(chr(code))
        assert became and became.isascii() and replaced.total() >= 1, hex(code)


def test_control_codes_are_shown_and_not_sent_to_a_terminal():
    text = "".join(map(chr, range(128)))
    shown = tokenizer.printable(text)
    assert len(shown) == 128 and shown[10] == "\n" and shown[9] == "\t" and shown[32:127] == text[32:127]
    assert shown[27] == "␛" and shown[127] == "␡" and all(c.isprintable() for c in shown if c not in "\n\t")


def test_the_report_counts_each_kind_and_says_what_became_of_it():
    _, replaced = tokenizer.to_ascii("’a’ é \u200b")
    assert tokenizer.report(replaced) == (
        "4 characters are not ASCII: ’ became ' (2 times), é became e (once), U+200B became ? (once)"
    )
    assert tokenizer.report(tokenizer.to_ascii("é")[1]) == "1 character is not ASCII: é became e (once)"
    assert tokenizer.report(tokenizer.to_ascii("éèêëáàâäíì")[1]).endswith("(once), and 2 more kinds")


def test_encoding_what_is_not_ascii_warns_and_says_what_was_replaced():
    with pytest.warns(UserWarning, match=r"1 character is not ASCII: é became e \(once\)"):
        assert tokenizer.encode("é!") == [101, 33]
