"""Downloads, from a server on this machine that answers as Hugging Face's hub does, and the sentence when there is none."""

import json
import subprocess
import sys

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from .hub_server import serving

PROGRAM = """
import sys, time
time.sleep = lambda seconds: None  # the hub's library waits between its attempts
from importlib import import_module
from shared.cli import RunError, UsageError
hub, GPT = import_module("04_gpt2.hub"), import_module("04_gpt2.model").GPT
if sys.argv[1] == "--with-tokenizer":
    print(sorted(path.name for path in hub.find(sys.argv[2], with_tokenizer=True).iterdir()))
    sys.exit()
for name in sys.argv[1:]:
    try:
        print(f"{GPT.from_pretrained(name).config.n_params} parameters")
    except (UsageError, RunError) as error:
        print(f"{type(error).__name__}: {error}")
"""
PARAMETERS = (
    "2072 parameters"  # (31 + 8) * 8 in the tables, 2 * (12 * 8 * 8 + 13 * 8) in the blocks, 2 * 8 in the last LayerNorm
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a small model in one piece and in several."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=31, n_positions=8, n_embd=8, n_layer=2, n_head=2))
    whole, parts = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("parts")
    model.save_pretrained(whole)
    model.save_pretrained(parts, max_shard_size="3KB")
    return [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (whole, parts)]


@pytest.fixture
def server(files):
    whole, parts = files
    models = {"tiny": whole, "some/sharded": parts, "some/broken": whole, "some/short": whole}
    with serving() as hub:
        for name, content in models.items():
            hub.publish(name, content)
        hub.publish("some/llama", {"config.json": json.dumps({"model_type": "llama"}).encode()})
        hub.publish("some/gated", {}).gated = True
        hub.fault = fault
        yield hub


def fault(request):
    """What goes wrong with the weights of some/broken and of some/short."""
    if not (request.startswith("GET ") and ".safetensors" in request):
        return ""
    return "broken" if "some/broken" in request else "cut" if "some/short" in request else ""


@pytest.fixture
def load(server, tmp_path, monkeypatch):
    """Call it with names: the lines of a program that loads these models from the server, with a cache of its own."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def run(*names):
        done = subprocess.run([sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_a_download_lands_in_the_cache_and_is_not_repeated(server, load, tmp_path, monkeypatch):
    assert load("tiny", "some/sharded") == [PARAMETERS, PARAMETERS]
    assert (tmp_path / "home/hub/models--tiny").is_dir()
    [config, *others] = [path for path in dict.fromkeys(server.asked) if path.startswith("GET /tiny/")]
    assert config == "GET /tiny/resolve/main/config.json"  # it names the commit, which all other files are taken from
    assert others == [f"GET /tiny/resolve/{server.repositories['tiny'].branches['main']}/model.safetensors"]
    server.asked.clear()
    assert load("tiny", "some/sharded") == [PARAMETERS, PARAMETERS] and not server.asked  # though there is a network
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tiny, sharded, absent = load("tiny", "some/sharded", "some/llama")
    assert (tiny, sharded) == (PARAMETERS, PARAMETERS) and not server.asked
    assert absent.startswith(
        "UnreachableError: there is no folder some/llama here, config.json of a model some/llama is not in"
    )
    assert f"{tmp_path}/home/hub, and HF_HUB_OFFLINE is set; give a folder" in absent


def test_the_tokenizer_is_fetched_when_it_is_wanted(server, files, load):
    server.publish("tiny", files[0] | {"vocab.json": b"{}", "merges.txt": b"#version"})
    assert load("--with-tokenizer", "tiny") == ["['config.json', 'merges.txt', 'model.safetensors', 'vocab.json']"]
    server.asked.clear()
    assert load("--with-tokenizer", "tiny") == ["['config.json', 'merges.txt', 'model.safetensors', 'vocab.json']"]
    assert not server.asked  # nor for tokenizer.json, which is known not to be there
    server.publish("some/sharded", files[1] | {"tokenizer.json": b"{}", "vocab.json": b"{}"})
    [names] = load("--with-tokenizer", "some/sharded")
    assert "tokenizer.json" in names and "vocab.json" not in names


def test_without_a_server_the_cache_still_serves_and_what_is_not_in_it_is_said(server, load):
    assert load("tiny") == [PARAMETERS]
    server.shutdown()
    server.server_close()
    cached, absent = load("tiny", "some/sharded")
    assert cached == PARAMETERS
    assert absent.startswith("UnreachableError: there is no folder some/sharded here, config.json of a model some/sharded is ")
    assert f"{server.url} does not serve it (" in absent


def test_what_the_hub_refuses_is_one_sentence(server, load):
    hub = server.url
    names = ("nobody/nothing", "some/gated", "runs/a/b", "some/broken", "some/short", "some/llama")
    nothing, gated, no_name, broken, short, llama = load(*names)
    assert nothing.startswith(f"UsageError: there is no folder nobody/nothing here and no public model of that name on {hub}")
    assert gated.startswith(f"UsageError: {hub}/some/gated is only for those whom its owners let in")
    assert no_name.startswith(f"UsageError: runs/a/b is not there, and it is no name of a model on {hub} either")
    assert broken.startswith(f"RunError: model.safetensors of some/broken could not be fetched from {hub}: ")
    assert short.startswith(f"RunError: model.safetensors of some/short could not be fetched from {hub}: ")
    assert "model_type is 'llama', expected 'gpt2'" in llama
