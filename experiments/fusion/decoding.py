"""Greedy decoding by several models in lockstep, and what every part of it costs."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import check_names
from kljax.data.pairs import Rows, Vocabulary
from kljax.decoding import (
    Decoding,
    Fusion,
    Sampling,
    fuse,
    generate,
    speculate,
    timing,
)
from kljax.decoding.fusion.grid import grid_weights
from kljax.models.functional import parameter_count
from kljax.models.language.transformer import (
    PureTransformer,
    TransformerConfig,
    transformer,
)
from kljax.training import Progress
from kljax.typing import Array, PyTree

__all__ = ["DRAFT", "Decoded", "TimingConfig", "answer", "decode", "timed"]

DRAFT = 4
"""Tokens that the expert drafts per block."""

PARTS = ("both small ones", "static", "dynamic", "grid")


@dataclasses.dataclass(frozen=True)
class TimingConfig:
    """Shapes whose decoding is timed with random weights; the sizes are 12 to 1."""

    vocabulary: int = 49152
    width: int = 576
    depth: int = 30
    heads: int = 9
    kv_heads: int = 3
    hidden: int = 1536
    small_width: int = 192
    small_depth: int = 4
    small_heads: int = 3
    batches: tuple[int, ...] = (1, 8)
    prompt: int = 16
    tokens: int = 24
    """New tokens per timed call, whose time holds the reading of the prompt."""
    repeats: int = 3
    parts: tuple[str, ...] = PARTS
    """What is timed beside the large model alone and the solve alone."""

    def __post_init__(self):
        check_names("timing.parts", self.parts, PARTS)
        if "dynamic" not in self.parts:
            raise ValueError("timing.parts must name dynamic: the claim COST needs it")


def _first(logits: Sequence[Array]) -> tuple[Array, dict[str, Array]]:
    return logits[0], {}


def _grid(logits: Sequence[Array]) -> tuple[Array, dict[str, Array]]:
    z, s, expert = logits
    experts = expert[..., None, :]
    alpha = grid_weights(z, s, experts).alpha
    return fuse(z, s, experts, alpha), {"alpha": alpha}


class Decoded(NamedTuple):
    """Greedy answers: of the plain loop and by blocks that the expert drafts."""

    texts: list[str]
    drafted: list[str]
    calls: float
    """Of the large model per token of an answer, by blocks."""


def decode(
    vocabulary: Vocabulary,
    models: Sequence[tuple[PureTransformer, PyTree]],
    rows: Rows,
    steps: int,
) -> Decoded:
    """Greedy answers of dynamic fusion, up to the end token.

    Args:
        vocabulary: of all models.
        models: large, small base, expert.
        rows: whose prompts are read, left-padded.
        steps: tokens to make at most.
    """
    prompts = [rows.prompt(i) for i in range(len(rows))]
    width = rows.tokens.shape[1]
    tokens = np.full((len(rows), width), vocabulary.end, np.int32)
    where = np.zeros(tokens.shape, bool)
    for i, prompt in enumerate(prompts):
        tokens[i, width - len(prompt) :] = prompt
        where[i, width - len(prompt) :] = True
    settings = Decoding(
        steps,
        Sampling(temperature=0.0),
        stop_tokens=(vocabulary.end,),
        pad_id=vocabulary.end,
        combine=Fusion(),
    )
    plain = generate(models, tokens, settings, where=where)
    blocks = speculate(models, tokens, settings, where=where, draft=DRAFT)
    return Decoded(
        [_until_end(vocabulary, row) for row in np.asarray(plain.tokens)],
        [_until_end(vocabulary, row) for row in np.asarray(blocks.tokens)],
        float(jnp.sum(blocks.calls) / jnp.sum(blocks.lengths)),
    )


def answer(vocabulary: Vocabulary, rows: Rows, row: int) -> str:
    """The right answer of a row as text."""
    return _until_end(vocabulary, rows.tokens[row][rows.answer[row]])


def _until_end(vocabulary: Vocabulary, ids: Any) -> str:
    return vocabulary.decode(
        list(itertools.takewhile(lambda i: i != vocabulary.end, map(int, ids)))
    )


# ------------------------------------------------------------------ time


def random_weights(config: TransformerConfig, seed: int) -> tuple[PureTransformer, Any]:
    """A model that was never trained: its time is that of a trained one."""
    apply, initial = transformer(config)
    random = np.random.default_rng(seed)

    def leaf(shape: jax.ShapeDtypeStruct) -> Array:
        if len(shape.shape) < 2:
            return jnp.ones(shape.shape, shape.dtype)
        values = random.standard_normal(shape.shape, np.float32)
        return jnp.asarray(0.02 * values)

    return apply, jax.tree.map(leaf, jax.eval_shape(initial, jax.random.key(0)))


def timed(config: TimingConfig, progress: Progress) -> dict[str, Any]:
    """Milliseconds per new token of decoding with one model, two and three, in turns.

    Returns:
        Per batch size the least wall and process time of every part, and the weights.
    """
    large = random_weights(
        TransformerConfig(
            vocab_size=config.vocabulary,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            kv_heads=config.kv_heads,
            hidden=config.hidden,
        ),
        0,
    )
    shape = TransformerConfig(
        vocab_size=config.vocabulary,
        width=config.small_width,
        depth=config.small_depth,
        heads=config.small_heads,
    )
    small = [random_weights(shape, seed) for seed in (1, 2)]
    parts = {
        "large alone": ([large], None),
        "both small ones": (small, _first),
        "static": ([large, *small], Fusion(rule="static")),
        "dynamic": ([large, *small], Fusion()),
        "grid": ([large, *small], _grid),
    }
    parts = {k: v for k, v in parts.items() if k in ("large alone", *config.parts)}
    task = progress.task("timing", len(config.batches) * (len(parts) + config.repeats))
    found: dict[str, Any] = {
        "weights": [parameter_count(large[1]), parameter_count(small[0][1])],
        "batches": {},
    }
    greedy, done = Sampling(temperature=0.0), itertools.count(1)

    def advance() -> None:
        task.update(next(done))

    for batch in config.batches:
        calls = {}
        random, shape = np.random.default_rng(3), (batch, config.prompt)
        prompt = jnp.asarray(random.integers(0, config.vocabulary, shape), jnp.int32)
        for name, (models, combine) in parts.items():
            settings = Decoding(config.tokens, greedy, combine=combine)
            calls[name] = timing.decoding_call(models, prompt, settings)
            advance()
        calls["solve alone"] = timing.solving_call(
            batch, config.vocabulary, Fusion(), config.tokens
        )
        found["batches"][str(batch)] = timing.timed(
            calls, per=config.tokens, repeats=config.repeats, after=advance
        )
    task.close()
    return found
