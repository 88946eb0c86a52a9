"""The cache changes nothing: reading on equals reading all again, whatever the lengths, the batch and the chunks."""

from importlib import import_module

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

bpe = import_module("04_gpt2.bpe")
cache = import_module("04_gpt2.cache")
config = import_module("04_gpt2.config")
generate = import_module("04_gpt2.generate")
model = import_module("04_gpt2.model")

BLOCK, VOCAB = 12, 280
TOKENIZER = bpe.BytePairTokenizer([], specials=["<|endoftext|>"])  # 257 ids
CPU = torch.device("cpu")
SEEDS = st.integers(0, 2**31)


def random_model(seed):
    """Weights so strong that every token in sight matters."""
    torch.manual_seed(seed)
    net = model.GPT(config.GPTConfig(block_size=BLOCK, vocab_size=VOCAB, n_layer=2, n_head=2, n_embd=16)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return net


@torch.no_grad()
def full_logits(net, ids):
    return net(torch.tensor([ids]))[0]  # (T, V)


@torch.no_grad()
@given(SEEDS, st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1).filter(lambda chunks: sum(chunks) <= BLOCK))
def test_reading_in_chunks_equals_the_full_forward_at_every_position(seed, B, chunks):
    net = random_model(seed)
    idx = torch.randint(VOCAB, (B, sum(chunks)))
    memory = cache.KVCache(net.config, B, CPU)
    logits = [net.lm_head(net.transformer(chunk, memory)) for chunk in idx.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), net(idx), atol=1e-4, rtol=1e-4)
    assert memory.lengths == [sum(chunks)] * B


@torch.no_grad()
@given(SEEDS, st.lists(st.integers(1, 6), min_size=1, max_size=5), st.lists(st.integers(1, 3), max_size=2))
def test_texts_of_different_lengths_are_read_as_if_each_were_alone(seed, lengths, more):
    net = random_model(seed)
    texts = [torch.randint(VOCAB, (length,)).tolist() for length in lengths]
    memory = cache.KVCache(net.config, len(texts), CPU)
    for n in [0, *more]:
        texts = [text + torch.randint(VOCAB, (n,)).tolist() for text in texts]
        if n or not memory.lengths[0]:
            logits = generate.read(net, texts, memory)
            expected = torch.stack([full_logits(net, text)[-1] for text in texts])
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@given(SEEDS, st.lists(st.integers(1, 2 * BLOCK), min_size=1, max_size=4), st.integers(1, 4 * BLOCK))
def test_cached_generation_equals_the_documented_windows_read_in_full(seed, lengths, n):
    """Greedy, far past the context length. Where the two likeliest ids are nearly equal, either may be chosen."""
    net = random_model(seed)
    prompts = [torch.randint(257, (length,)).tolist() for length in lengths]
    sampling = generate.Sampling(max_new_tokens=n, temperature=0)
    for prompt, row in zip(prompts, generate.sample(net, prompts, TOKENIZER, sampling, seed=0), strict=True):
        in_sight = prompt[-BLOCK:]
        for i in row if len(row) == n else [*row, TOKENIZER.specials["<|endoftext|>"]]:
            logits = full_logits(net, in_sight)[-1, : TOKENIZER.vocab_size]
            assert logits[i] >= logits.max() - 1e-3
            in_sight = [*in_sight, i] if len(in_sight) < BLOCK else [*in_sight, i][-(BLOCK // 2) :]


@given(SEEDS, st.lists(st.integers(0, 256), min_size=1, max_size=6))
def test_greedy_generation_equals_hugging_face(seed, prompt):
    net = random_model(seed)
    shape = GPT2Config(n_positions=BLOCK, vocab_size=VOCAB, n_layer=2, n_head=2, n_embd=16)
    theirs = GPT2LMHeadModel(shape).eval()
    transposed = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # theirs are Conv1D
    theirs.load_state_dict({name: t.T if name.endswith(transposed) else t for name, t in net.state_dict().items()})
    tokenizer = bpe.BytePairTokenizer([(0, i) for i in range(VOCAB - 257)])  # every row of the table is an id
    end = tokenizer.specials["<|endoftext|>"]
    n = BLOCK - len(prompt)
    expected = theirs.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=n, do_sample=False, eos_token_id=end
    )[0, len(prompt) :].tolist()
    [ours] = generate.sample(net, [prompt], tokenizer, generate.Sampling(max_new_tokens=n, temperature=0), seed=0)
    if ours != [i for i in expected if i != end]:  # allowed where two ids are equally likely
        same = next(i for i, pair in enumerate(zip([*ours, end], expected, strict=False)) if pair[0] != pair[1])
        logits = full_logits(net, prompt + ours[:same])[-1]
        assert abs(logits[[*ours, end][same]] - logits[expected[same]]) < 1e-3


def test_what_lies_beyond_a_texts_length_is_never_seen():
    net = random_model(0)
    memory = cache.KVCache(net.config, 2, CPU)
    for layer in memory.layers:
        layer.keys.fill_(1e4), layer.values.fill_(1e4)
    with torch.no_grad():
        generate.read(net, [[1, 2, 3, 4, 5], [6]], memory)
        logits = generate.read(net, [[1, 2, 3, 4, 5, 7], [6, 8]], memory)
    expected = torch.stack([full_logits(net, [1, 2, 3, 4, 5, 7])[-1], full_logits(net, [6, 8])[-1]])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_a_full_cache_takes_no_more_until_it_is_cleared():
    net = random_model(0)
    memory = cache.KVCache(net.config, 2, CPU)
    with torch.no_grad():
        generate.read(net, [[1] * 10, [2] * 4], memory)
        with pytest.raises(ValueError, match="10 tokens were read and 3 are to come, but this model has 12 positions"):
            generate.read(net, [[1] * 13, [2] * 7], memory)
        memory.clear()
        logits = generate.read(net, [[1] * 12, [2] * 7], memory)
    torch.testing.assert_close(logits[1], full_logits(net, [2] * 7)[-1], atol=1e-4, rtol=1e-4)
