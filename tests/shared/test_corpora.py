"""The embedded texts: complete, in the familiar form, and files of the user's refused in one sentence."""

import collections
import re

import pytest

from shared import corpora
from shared.cli import UsageError


@pytest.fixture(scope="module")
def plays():
    return corpora.plays()


def test_there_are_37_plays_and_4_7_million_characters(plays):
    text = corpora.shakespeare()
    assert len(plays) == 37 and "edward-iii" not in plays
    assert 4_670_000 < len(text) < 4_680_000
    assert text.isascii()


def test_every_speech_has_a_speaker_a_text_and_a_blank_line(plays):
    for title, text in plays.items():
        assert text.endswith("\n") and "\n\n\n" not in text, title
        for speech in text.rstrip("\n").split("\n\n"):
            speaker, *lines = speech.split("\n")
            assert speaker.endswith(":") and lines and all(lines), (title, speech)
            assert not speaker.startswith(("of ", "OF ")) and ":" not in speaker[:-1], (title, speech)
            assert not speech.endswith(("\nRICHARD", "\nBISHOP", "\nCOUNTESS", "\nCARDINAL", "\nGhost")), (title, speech)


def test_no_markup_and_no_stage_direction_is_left(plays):
    for title, text in plays.items():
        assert not re.search(r"[*_#\\\[\]]|  $|\bExeunt\b", text, re.MULTILINE), title


def test_famous_lines_stand_where_they_belong(plays):
    assert "HAMLET:\nTo be, or not to be: that is the question:\n" in plays["hamlet"]
    assert "ROMEO:\nHe jests at scars that never felt a wound.\nBut, soft! what light" in plays["romeo-and-juliet"]
    assert plays["henry-viii"].startswith("PROLOGUE:\nI come no more to make you laugh: things now,\n")


def test_tiny_shakespeare_is_its_nine_plays_cut_at_the_known_line():
    text = corpora.tinyshakespeare()
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\n")
    assert text.endswith("Thou let'st thy fortune sleep--die, rather; wink'st\nWhiles thou art waking.\n")
    speakers = collections.Counter(re.findall(r"^([A-Z][A-Za-z ]+):$", text, re.MULTILINE))
    assert {"ROMEO", "CORIOLANUS", "GLOUCESTER", "PETRUCHIO", "LEONTES"} <= speakers.keys()
    assert 1_100_000 < len(text) < 1_150_000


def test_names_are_the_distinct_ones_of_2017():
    names = corpora.names()
    assert len(names) == len(set(names)) == 29_910
    assert names[:3] == ["Emma", "Olivia", "Ava"] and all(name.isascii() and name.isalpha() for name in names)
    rows = corpora.names(distinct=False)
    assert len(rows) == 32_469 and set(rows) == set(names) and max(collections.Counter(rows).values()) == 2


def test_a_text_of_the_users_is_read_unchanged(tmp_path):
    text = "Zwölf Boxkämpfer\r\njagen 李白 😀\n"
    (tmp_path / "mine.txt").write_bytes(text.encode())
    assert corpora.read_text(tmp_path / "mine.txt") == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good until h\xe9re", r"not UTF-8: byte 0xe9 at offset 12"),
        (b"", "is empty"),
        (None, "No such file"),
        ("too long", "File name too long"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused(tmp_path, content, message):
    path = tmp_path / "mine.txt"
    if content == "too long":
        path = tmp_path / ("x" * 300)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        corpora.read_text(path)


def test_a_folder_and_a_missing_package_are_refused(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        corpora.read_text(tmp_path)
    with pytest.raises(UsageError, match="no_such_package is not installed"):
        corpora.embedded_folder("no_such_package")
