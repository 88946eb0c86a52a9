"""What a run learns from: where a text is cut, what is encoded; the shards of a folder."""

import json
import random
import shutil
import struct
from collections import Counter
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import corpora
from shared.cli import UsageError

data = import_module("04_gpt2.token_data")
bpe = import_module("04_gpt2.bpe")
config = import_module("04_gpt2.config")
shards = import_module("04_gpt2.shards")
tokenizers = import_module("04_gpt2.tokenizer")
prepare_shards = import_module("04_gpt2.data").main


def write_shard(path, tokens):
    path.write_bytes(struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253) + np.array(tokens, dtype="<u2").tobytes())


@pytest.fixture(scope="module")
def plays(tmp_path_factory, finished_run):
    """The plays as shards, with the tokenizer of a run."""
    folder = tmp_path_factory.mktemp("plays") / "shards"
    flags = ["--source", "shakespeare", "--to", str(folder), "--tokenizer", str(finished_run), "--workers", "1", "-q"]
    assert prepare_shards([*flags, "--shard-tokens", "1000000"]) == 0
    return folder


@pytest.fixture
def copy(plays, tmp_path):
    """The same folder elsewhere, to be changed."""
    return shutil.copytree(plays, tmp_path / "copy")


@pytest.fixture
def published(tmp_path):
    """Shards without a manifest, named as the published ones are."""
    (tmp_path / "published").mkdir()
    encoding = tokenizers.gpt2_tokenizer().tiktoken_encoding
    for name, text in [("val_000000", "to be"), ("train_000002", "to dream"), ("train_000001", "or not to be, to sleep")]:
        write_shard(tmp_path / "published" / f"edu_fineweb_{name}.bin", [50256, *encoding.encode(text)])
    return tmp_path / "published"


def rewrite_manifest(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refused(folder, vocab_size=512):
    """What `open_folder` says."""
    with pytest.raises(UsageError) as caught:
        data.open_folder(folder, vocab_size)
    said = str(caught.value)
    assert "\n" not in said
    return said


@given(st.text(min_size=1, max_size=300))
def test_a_text_is_cut_once_at_nine_tenths_of_its_bytes(text):
    size = len(text.encode())
    if size < 2:
        with pytest.raises(UsageError, match="too short to be split"):
            data.split(text)
        return
    try:
        train, val = data.split(text)
    except UsageError:  # what follows the cut is one character
        assert len(text[-1].encode()) >= size - int(size * 0.9)
        return
    assert train + val == text
    assert int(size * 0.9) <= len(train.encode()) < int(size * 0.9) + 4


def test_the_tokenizer_sees_the_training_part_only():
    text = "ab " * 90 + "xyxyxyxyxy" * 3
    prepared = data.prepare(text, "bpe", 300)
    assert not any(b"xy" in token for token in prepared.tokenizer.tokens)
    assert prepared.tokenizer.decode(prepared.train[1:]) + prepared.tokenizer.decode(prepared.val[1:]) == text
    assert prepared.train[0] == prepared.val[0] == prepared.tokenizer.specials[bpe.END_OF_TEXT]
    assert prepared.train.dtype == np.uint16


def test_the_markers_text_inside_a_document_is_ordinary_text():
    prepared = data.prepare("so it <|endoftext|> goes " * 20, "gpt2", 50257)
    assert (prepared.train == 50256).sum() == 1


def test_a_vocabulary_without_room_is_refused():
    with pytest.raises(UsageError, match="--vocab-size 50256 is smaller than GPT-2's tokenizer, which has 50257 ids"):
        data.prepare("some text " * 9, "gpt2", 50256)
    with pytest.raises(UsageError, match="--vocab-size: a vocabulary of 12 is too small"):
        data.prepare("some text " * 9, "bpe", 12)


def test_the_digest_knows_every_token_of_both_parts():
    prepared = data.prepare("to be or not to be, that is the question\n" * 30, "bpe", 270)
    digests = {prepared.sha256, replace(prepared, text="").sha256}
    for name in ("train", "val"):
        tokens = getattr(prepared, name).copy()
        tokens[random.randrange(len(tokens))] += 1
        digests.add(replace(prepared, **{name: tokens}).sha256)
    assert len(digests) == 3


def test_a_prepared_folder_gives_all_its_documents_back_by_its_own_tokenizer(plays, finished_run):
    opened = data.open_folder(plays, 512)
    assert opened.text is None
    of_run = tokenizers.open_tokenizer(finished_run)
    assert (opened.tokenizer.tokens, opened.tokenizer.specials) == (of_run.tokens, of_run.specials)
    end_of_text = opened.tokenizer.specials[bpe.END_OF_TEXT]
    documents = []
    for tokens in (opened.train, opened.val):
        assert tokens[0:1].tolist() == [end_of_text] and tokens[:].dtype == np.uint16
        places = np.flatnonzero(tokens[:] == end_of_text)[1:]
        documents += [opened.tokenizer.decode(part[1:].tolist()) for part in np.split(tokens[:], places)]
    whole = "".join(corpora.plays().values())
    assert len(opened.val) > 1 and all(document in whole for document in documents)
    assert Counter("".join(documents)) == Counter(whole)


def test_a_published_folder_holds_gpt2s_tokens_in_the_order_of_its_files_names(published):
    opened = data.open_folder(published, 50304)
    assert opened.text is None and opened.tokenizer.vocab_size == 50257
    assert opened.tokenizer.decode(opened.train[:].tolist()) == "<|endoftext|>or not to be, to sleep<|endoftext|>to dream"
    assert opened.tokenizer.decode(opened.val[:].tolist()) == "<|endoftext|>to be"


def test_gpt2s_tokenizer_need_not_lie_beside_the_shards(published):
    gpt2 = tokenizers.gpt2_tokenizer()
    described = {"name": "gpt2", "vocab_size": gpt2.vocab_size, "sha256": shards.fingerprint(gpt2)}
    entries = []
    for name in ("train_000000.bin", "val_000000.bin"):
        write_shard(published / name, [50256, 9, 9])
        entries.append(shards.Entry(name, 3, "unread"))
    shards.Manifest({"tokenizer": described}, {"train": 1, "val": 1}, 0, tuple(entries)).save(published)
    opened = data.open_folder(published, 50257)
    assert opened.tokenizer.tokens == gpt2.tokens
    assert opened.train[:].tolist() == opened.val[:].tolist() == [50256, 9, 9]  # the manifest's shards alone


def test_another_tokenizer_than_the_manifests_is_refused(copy):
    path = copy / "tokenizer.json"
    bpe.BytePairTokenizer.train("another text, of other merges", 270).save(path)
    found = shards.fingerprint(bpe.BytePairTokenizer.load(path))
    named = json.loads((copy / "manifest.json").read_text())["settings"]["tokenizer"]["sha256"]
    assert refused(copy) == (
        f"{copy / 'manifest.json'} was made with another tokenizer than tokenizer.json beside it: fingerprints "
        f"{named[:12]} and {found[:12]}; bring the right one back, or prepare anew"
    )


def test_a_manifest_of_another_tokenizer_is_refused(copy):
    rewrite_manifest(copy, lambda manifest: manifest["settings"]["tokenizer"].update(sha256="0" * 64))
    assert "was made with another tokenizer than tokenizer.json beside it: fingerprints 000000000000 and " in refused(copy)


@pytest.mark.parametrize("content", [None, "", "{}", "[]", "\xff", "cut off"])
def test_a_tokenizer_that_is_missing_or_damaged_is_refused_by_name(copy, content):
    path = copy / "tokenizer.json"
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(whole[: len(whole) // 2] if content == "cut off" else content.encode("latin-1"))
    said = refused(copy)
    assert said.startswith(f"{path}, the tokenizer of these shards, cannot be read: ")
    assert content is not None or "No such file" in said


def test_a_vocabulary_without_room_for_a_folders_ids_is_refused(plays, published):
    assert refused(plays, 511) == f"--vocab-size 511 has no room for the 512 ids of {plays}"
    assert refused(published, 50256) == f"--vocab-size 50256 has no room for the 50,257 ids of {published}"
    assert data.open_folder(plays, 512).tokenizer.vocab_size == 512


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("left", [None, 0, 1])
def test_a_split_without_a_token_to_predict_is_refused(published, split, left):
    for path in published.glob(f"*{split}*"):
        path.unlink()
    if left is not None:
        write_shard(published / f"mine_{split}.bin", [50256] * left)
    assert refused(published, 50257) == (
        f"{published} has no {split} tokens; prepare it with another --val-share, or add shards with {split} in the name"
    )


def test_a_folder_prepared_without_validation_is_refused(copy):
    def without_val(manifest):
        manifest["shards"] = [entry for entry in manifest["shards"] if entry["name"].startswith("train")]

    rewrite_manifest(copy, without_val)
    assert f"{copy} has no val tokens; prepare it with another --val-share" in refused(copy)


def test_damaged_shards_and_empty_folders_are_refused_by_name(copy, tmp_path):
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} holds neither manifest.json nor shards with train or val" in refused(tmp_path / "empty")
    path = random.choice(sorted(copy.glob("*.bin")))
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    assert refused(copy).startswith(f"{path} is cut off or altered: its header says")
    path.unlink()
    assert refused(copy).startswith(f"{path} is missing; fetch or prepare it again")


def test_the_digest_of_a_folder_knows_each_shard_and_not_where_it_lies(plays, copy):
    digest = data.open_folder(plays, 512).sha256
    assert data.open_folder(copy, 600, read_ahead=True).sha256 == digest
    digests, n_shards = {digest}, len(json.loads((copy / "manifest.json").read_text())["shards"])
    assert n_shards > 3
    for i in range(n_shards):
        shutil.copy(plays / "manifest.json", copy)
        rewrite_manifest(copy, lambda manifest, i=i: manifest["shards"][i].update(sha256="f" * 64))
        digests.add(data.open_folder(copy, 512).sha256)
    shutil.copy(plays / "manifest.json", copy)
    rewrite_manifest(copy, lambda manifest: manifest["shards"].pop(0))
    digests.add(data.open_folder(copy, 512).sha256)
    assert len(digests) == n_shards + 2


def test_the_digest_of_published_shards_knows_their_names_and_sizes(published, tmp_path):
    digest = data.open_folder(published, 50257).sha256
    assert data.open_folder(shutil.copytree(published, tmp_path / "copy"), 50257).sha256 == digest
    (published / "edu_fineweb_train_000002.bin").rename(published / "edu_fineweb_train_000003.bin")
    renamed = data.open_folder(published, 50257).sha256
    write_shard(published / "edu_fineweb_train_000003.bin", [50256] * 9)
    assert len({digest, renamed, data.open_folder(published, 50257).sha256}) == 3


def test_data_is_a_text_or_a_folder_of_shards_and_a_known_texts_name_comes_first(plays, tmp_path, monkeypatch):
    shape = config.GPTConfig(block_size=64, vocab_size=512, n_layer=1, n_head=1, n_embd=8)
    assert data.open_data(str(plays), shape).train.paths == tuple(sorted(plays.glob("train*")))
    (tmp_path / "text.txt").write_text("to be or not to be " * 9)
    assert data.open_data(str(tmp_path / "text.txt"), shape) == "to be or not to be " * 9
    (tmp_path / "tinyshakespeare").mkdir()
    monkeypatch.chdir(tmp_path)
    assert data.open_data("tinyshakespeare", shape) == corpora.tinyshakespeare()
    for source, said in [
        ("text.txt", r"--block-size 64 is too long for text\.txt, which has 9 bytes"),
        (
            "nowhere",
            r"--data nowhere is not there; give .*, or a folder of token shards \(python -m 04_gpt2\.data makes them\)",
        ),
        ("data/train_000000.bin", r"data/train_000000\.bin has the name of a token shard; give the folder that holds it"),
        ("empty", r"empty holds neither manifest\.json nor shards"),
    ]:
        (tmp_path / "text.txt").write_text("too short")
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match=said):
            data.open_data(source, shape)
