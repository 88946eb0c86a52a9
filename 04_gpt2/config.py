"""Every number of a model and of a run, in two frozen dataclasses that are made once and passed down.

The presets are instances of them; each field is a flag of `python -m 04_gpt2.train`, and its help text stands here.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from shared.cli import UsageError
from shared.devices import DeviceName, DtypeName

FINEWEB = Path("data/fineweb-edu")
OrderName = Literal["windows", "shards"]


@dataclass(frozen=True)
class GPTConfig:
    """Shape of a GPT; the defaults are GPT-2 124M. Raises ValueError if the numbers do not fit together."""

    block_size: Annotated[int, "context length: the most tokens that are seen at once"] = 1024
    vocab_size: Annotated[int, "rows of the token table; rows beyond the tokenizer's ids are padding"] = 50257
    n_layer: Annotated[int, "blocks (attention and MLP) one after the other"] = 12
    n_head: Annotated[int, "attention heads in a block; must divide n_embd"] = 12
    n_embd: Annotated[int, "width: numbers that describe one token"] = 768
    dropout: Annotated[float, "share of activations dropped while training"] = 0.0

    def __post_init__(self):
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            value = getattr(self, name)
            _require(isinstance(value, int) and value >= 1, f"{name} is {value}; a whole number of at least 1 is expected")
        _require(0 <= self.dropout < 1, f"dropout is {self.dropout}; a share of at least 0 and below 1 is expected")
        _require(
            self.n_embd % self.n_head == 0,
            f"n_head {self.n_head} does not divide n_embd {self.n_embd}; each head takes an equal part of the width, "
            f"so choose one of {[h for h in range(1, min(self.n_embd, 64) + 1) if self.n_embd % h == 0]} heads",
        )

    @property
    def n_params(self) -> int:
        """Trainable numbers, the tied head counted once."""
        C = self.n_embd
        block = 12 * C * C + 13 * C  # four matrices of attention's and the MLP's, their biases, two LayerNorms
        return (self.vocab_size + self.block_size) * C + self.n_layer * block + 2 * C

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations of a training step for each token, at full context: forward 2, backward 4 for each weight
        that is multiplied, and the same for attention's two products, which grow with T. (PaLM, Chowdhery et al. 2022, app. B)
        """
        n_multiplied = self.n_params - self.block_size * self.n_embd  # position embeddings are only added
        return 6 * n_multiplied + 12 * self.n_layer * self.n_embd * self.block_size


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run. Raises ValueError if the numbers do not fit together."""

    preset: Annotated[str, "named set of defaults for all other flags"]
    data: Annotated[
        str,
        "shakespeare, tinyshakespeare, a UTF-8 text FILE, whose last tenth is for validation, or a FOLDER of token shards "
        "(python -m 04_gpt2.data)",
    ]
    tokenizer: Annotated[
        Literal["bpe", "gpt2"],
        "of a text: bpe learns vocab-size tokens from the training part; gpt2 is GPT-2's; token shards have their own",
    ]
    model: GPTConfig
    steps: Annotated[int, "optimizer updates"]
    tokens_per_step: Annotated[int, "tokens in one update, over all its micro-batches"]
    batch_size: Annotated[int, "rows of block-size tokens in one micro-batch, the part that is in memory at once"]
    lr: Annotated[float, "highest learning rate, reached after the warm-up"]
    min_lr: Annotated[float, "learning rate at the end of the cosine, kept from there on"]
    warmup_steps: Annotated[int, "updates over which the learning rate rises to its highest"]
    eval_every: Annotated[int, "updates between two validations; each also saves a checkpoint and writes a sample"]
    eval_tokens: Annotated[int, "validation tokens scored each time, always the same first ones; the end scores all"]
    order: Annotated[
        OrderName,
        "windows: of all shards in one random order, for local disks; shards: shard after shard, for disks across a network",
    ] = "windows"
    dtype: Annotated[DtypeName, "number format of the matrix products; auto takes bfloat16 where it is fast"] = "auto"
    device: Annotated[DeviceName, "where to compute; auto takes cuda, else mps, else cpu"] = "auto"
    compile: Annotated[Literal["auto", "on", "off"], "torch.compile for training; auto compiles on cuda"] = "auto"
    optimizer: Annotated[
        Literal["adamw", "muon"], "rule of the updates; muon: the blocks' matrices by Muon, all else by AdamW"
    ] = "adamw"
    split_qkv: Annotated[bool, "muon: queries, keys and values are three matrices, not one"] = False
    beta1: Annotated[float, "AdamW's memory of gradients"] = 0.9
    beta2: Annotated[float, "AdamW's memory of squared gradients"] = 0.95
    weight_decay: Annotated[float, "AdamW's decay of matrices and embeddings; biases and LayerNorms have none"] = 0.1
    max_grad_norm: Annotated[float, "gradients are scaled down to this global norm"] = 1.0
    seed: Annotated[int, "seed of the weights, the order of the data and the samples"] = 1337
    deterministic: Annotated[bool, "on cuda: take kernels whose result is the same each time, though slower"] = False
    run: Annotated[str, "folder that the run fills; left out, runs/ and the name of the preset or of your own text"] = ""
    keep: Annotated[int, "checkpoints kept in it, the newest ones"] = 3
    resume: Annotated[bool, "go on with the run that the folder holds; begin it if there is none"] = False
    overwrite: Annotated[bool, "replace the run that the folder holds"] = False
    quiet: Annotated[bool, "print nothing but errors"] = False

    def __post_init__(self):
        if not self.run:
            object.__setattr__(self, "run", f"runs/{self.preset}")
        at_least_one = ("steps", "tokens_per_step", "batch_size", "eval_every", "eval_tokens", "keep")
        for name in at_least_one:
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; at least 1 is expected")
        _require(0 < self.lr < math.inf, f"lr is {self.lr}; a number above 0 is expected")
        _require(0 <= self.min_lr <= self.lr, f"min_lr is {self.min_lr}; between 0 and lr {self.lr} is expected")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}; at least 0 and below 1 is expected")
        _require(0 <= self.weight_decay < math.inf, f"weight_decay is {self.weight_decay}; a number of at least 0 is expected")
        _require(0 < self.max_grad_norm < math.inf, f"max_grad_norm is {self.max_grad_norm}; a number above 0 is expected")
        _require(0 <= self.seed < 2**63, f"seed is {self.seed}; at least 0 and below 2**63 is expected")
        _require(
            0 <= self.warmup_steps <= self.steps,
            f"warmup_steps {self.warmup_steps} is not within the run's {self.steps} steps; "
            f"a tenth of them is usual: {self.steps // 10}",
        )
        _require(
            not (self.resume and self.overwrite),
            "resume cannot be given with --overwrite: the one goes on with a run, the other replaces it",
        )
        micro = self.batch_size * self.model.block_size
        _require(
            self.tokens_per_step % micro == 0,
            f"tokens_per_step {self.tokens_per_step} is not a multiple of a micro-batch of {self.batch_size} x "
            f"{self.model.block_size} = {micro} tokens; the nearest that is: "
            f"{max(1, round(self.tokens_per_step / micro)) * micro}",
        )

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches in one update."""
        return self.tokens_per_step // (self.batch_size * self.model.block_size)

    def to_json(self) -> dict[str, Any]:
        """Plain values, nested as the dataclasses are."""
        return asdict(self)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _gpt2(preset: str, n_layer: int, n_head: int, n_embd: int, lr: float, batch_size: int) -> TrainConfig:
    """GPT-2's shape with GPT-3's recipe for that size (Brown et al. 2020, table 2.1), over about ten billion tokens."""
    return TrainConfig(
        preset=preset,
        data=str(FINEWEB),
        tokenizer="gpt2",
        model=GPTConfig(vocab_size=50304, n_layer=n_layer, n_head=n_head, n_embd=n_embd),  # 50,257 ids, padded to 393 * 128
        steps=19_073,
        tokens_per_step=2**19,
        batch_size=batch_size,
        lr=lr,
        min_lr=lr / 10,
        warmup_steps=715,
        eval_every=250,
        eval_tokens=20 * 2**19,
    )


PRESETS = {
    config.preset: config
    for config in (
        TrainConfig(
            preset="shakespeare",
            data="shakespeare",
            tokenizer="bpe",
            model=GPTConfig(block_size=64, vocab_size=2048, n_layer=4, n_head=4, n_embd=128),
            steps=900,
            tokens_per_step=1024,
            batch_size=16,
            lr=8e-3,
            min_lr=8e-4,
            warmup_steps=20,
            eval_every=100,
            eval_tokens=2**15,
            optimizer="muon",
            dtype="float32",  # at this width bfloat16 gains no time, not even where the hardware has it
        ),
        TrainConfig(
            preset="debug",
            data="tinyshakespeare",
            tokenizer="bpe",
            model=GPTConfig(block_size=32, vocab_size=512, n_layer=2, n_head=2, n_embd=32),
            steps=20,
            tokens_per_step=512,
            batch_size=4,
            lr=4e-3,
            min_lr=4e-4,
            warmup_steps=5,
            eval_every=10,
            eval_tokens=2048,
            dtype="float32",
        ),
        _gpt2("gpt2", n_layer=12, n_head=12, n_embd=768, lr=6e-4, batch_size=16),
        _gpt2("gpt2-medium", n_layer=24, n_head=16, n_embd=1024, lr=3e-4, batch_size=8),
        _gpt2("gpt2-large", n_layer=36, n_head=20, n_embd=1280, lr=2.5e-4, batch_size=4),
        _gpt2("gpt2-xl", n_layer=48, n_head=25, n_embd=1600, lr=2e-4, batch_size=2),
    )
}


def choose_preset(asked: str | None, data_given: bool, has_cuda: bool, prepared: Path) -> tuple[str, str]:
    """Name of the preset and why: the one asked for, else gpt2 if there is a CUDA device and `prepared` holds token shards
    and no other data were given, else shakespeare. Raises UsageError for a name that is not in PRESETS."""
    if asked is not None:
        if asked not in PRESETS:
            raise UsageError(f"--preset {asked} is not one of {', '.join(PRESETS)}")
        return asked, "asked for"
    if data_given:
        return "shakespeare", "the usual one for a text of your own"
    if not has_cuda:
        return "shakespeare", "this run has no CUDA device"
    if not (prepared / "manifest.json").is_file():
        return "shakespeare", f"there is a CUDA device, but no prepared data in {prepared}"
    return "gpt2", f"there is a CUDA device and prepared data in {prepared}"
