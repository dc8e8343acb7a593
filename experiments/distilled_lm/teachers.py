"""The teacher: a published model on a trimmed vocabulary, or a small one made here."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kljax.data.batching import in_parts
from kljax.divergences import Hidden
from kljax.models.language.stacking import stack_layers
from kljax.models.language.transformer import TransformerConfig
from kljax.models.language.vocabulary import Bytes
from kljax.objectives.distillation import sequence_level_loss
from kljax.training import Loss, Player, adam, warmup_cosine
from kljax.typing import Array, Float, Int, PyTree


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    source: str | None = "smollm2"
    """Name, folder or .gguf file of `from_pretrained`; None: bytes, trained here."""
    width: int = 64
    depth: int = 3
    heads: int = 4
    steps: int = 300
    batch: int = 8
    learning_rate: float = 3e-3


class Teacher(NamedTuple):
    """Function, parameters and head; ids are those of the trimmed vocabulary."""

    config: TransformerConfig
    apply: Callable[..., Array]
    params: PyTree
    """Layers as a list."""

    @property
    def head(self) -> Float[Array, "d v"]:
        return self.params["head"]["kernel"]

    @property
    def bias(self) -> Float[Array, "v"] | None:
        return self.params["head"].get("bias")

    def side(self, states: Any, head: Array, bias: Array | None) -> Hidden:
        """The teacher as a loss takes it."""
        return Hidden(states, head, bias, self.config.soft_cap)


def tokenizer_of(pretrained: Any) -> tuple[Callable[[str], Sequence[int]], int]:
    """Text to ids, and the id that ends a document."""
    if pretrained is None:
        return Bytes.encode, Bytes.end
    known = pretrained.tokenizer
    end = known.vocabulary.get("<|endoftext|>", known.eos_id)
    return known.encode, 0 if end is None else end


def own_config(config: TeacherConfig, vocab: int, length: int) -> TransformerConfig:
    """The small teacher's sizes."""
    return TransformerConfig(
        vocab_size=vocab,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        hidden=2 * config.width,
        max_length=length,
    )


def text_player(
    role: str, apply: Callable[..., Array], config: TransformerConfig, optimizer: Any
) -> Player:
    """Plain training on text."""

    def loss(params, *, state, frozen, batch, key):
        del state, frozen, key
        states = apply(params, batch["tokens"], features=True)
        side = Hidden(
            states,
            params["head"]["kernel"],
            params["head"].get("bias"),
            config.soft_cap,
        )
        mean, metrics = sequence_level_loss(side, batch["labels"], reduction="mean")
        return Loss(None, metrics, mean=mean)

    return Player(role, loss, optimizer)


def text_optimizer(rate: float, steps: int) -> optax.GradientTransformation:
    """Warm-up over a tenth of the steps, then a cosine to a twentieth of the rate."""
    return adam(warmup_cosine(rate, steps), b2=0.95, weight_decay=0.01)


def features(
    teacher: Teacher, windows: Int[np.ndarray, "n t"], batch: int, note: Any
) -> Float[np.ndarray, "n t d"]:
    """Final hidden states in float16, read `batch` windows at a time; `note(done)`.

    Layers are stacked and scanned: one is compiled.
    """
    run = jax.jit(lambda p, x: teacher.apply(p, x, features=True).astype(jnp.float16))
    stacked = jax.jit(stack_layers)(teacher.params)
    return in_parts(lambda x: run(stacked, x), batch, windows[:, :-1], note=note)
