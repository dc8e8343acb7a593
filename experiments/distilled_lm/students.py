"""The students: where they start, what they minimize, and how they write."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.distilled_lm.teachers import Teacher, text_optimizer
from kljax.decoding import Decoding, generate
from kljax.divergences import Hidden
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.objectives.distillation import distillation_loss, sequence_level_loss
from kljax.objectives.on_policy import mixed_batch, next_token
from kljax.training import Loss, Player
from kljax.typing import Array, Int, Key, PyTree

TEXT = "cross_entropy"
"""The control: no teacher, the text alone."""


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    layers: tuple[int, ...] = (0, 1, 2, 29)
    """Which of the teacher's layers it starts with; none: a network of its own sizes
    with random weights."""
    width: int = 256
    depth: int = 4
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 768
    text_steps: int = 112
    """Steps on the text alone that all students have behind them when distillation
    starts: MiniLLM and DistiLLM start from a fine-tuned student, too."""
    text_rate: float = 1e-3
    steps: int = 104
    batch: int = 8
    learning_rate: float = 5e-4
    temperature: float = 1.0
    fraction: float = 0.5
    """Share of batches that an on-policy student writes; the paper of GKD uses 0.5 and
    1."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A divergence's name, or `TEXT`; `on_policy` where the student writes a share."""

    divergence: str
    on_policy: bool = False

    @classmethod
    def parse(cls, name: str) -> "Method":
        """`NAME` or `NAME/on_policy`.

        Raises:
          ValueError: another suffix, or the control on policy.
        """
        divergence, slash, suffix = name.partition("/")
        if slash and (suffix != "on_policy" or divergence == TEXT):
            raise ValueError(
                f"methods: {name!r}; expected a divergence, with /on_policy behind it "
                f"or not, or {TEXT}"
            )
        return cls(divergence, bool(slash))


class Student:
    """Function, loss and optimizer of the students of one teacher."""

    def __init__(self, config: StudentConfig, teacher: Teacher, length: int):
        self.config, self.teacher = config, teacher
        if config.layers:
            if max(config.layers) >= teacher.config.depth or min(config.layers) < 0:
                raise ValueError(
                    f"student.layers {config.layers}: the teacher has layers 0 to "
                    f"{teacher.config.depth - 1}"
                )
            self.sizes = dataclasses.replace(teacher.config, depth=len(config.layers))
        else:
            self.sizes = TransformerConfig(
                vocab_size=teacher.config.vocab_size,
                width=config.width,
                depth=config.depth,
                heads=config.heads,
                kv_heads=config.kv_heads,
                hidden=config.hidden,
                max_length=length,
            )
        self.apply, self.draw = transformer(self.sizes)

    def initial(self, key: Key[Array, ""]) -> PyTree:
        """Layers, norm and head of the teacher, or random weights."""
        if not self.config.layers:
            return self.draw(key)
        layers = {i: self.teacher.params["layers"][j] for i, j in self.copied}
        return {**self.teacher.params, "layers": layers}

    @property
    def copied(self) -> list[tuple[int, int]]:
        return list(enumerate(self.config.layers))

    def side(self, params: PyTree, tokens: Int[Array, "b t"]) -> Hidden:
        """The student as a loss takes it."""
        states = self.apply(params, tokens, features=True)
        head = params["head"]
        return Hidden(states, head["kernel"], head.get("bias"), self.sizes.soft_cap)

    def player(self, method: Method, rate: float, steps: int) -> Player:
        """The loss of a method, and an optimizer for so many steps."""
        config = self.config

        def loss(params, *, state, frozen, batch, key):
            del state
            found = {}
            if method.on_policy:
                batch, found = mixed_batch(
                    key,
                    batch,
                    self.writer(jax.lax.stop_gradient(params), frozen),
                    fraction=config.fraction,
                )
            student = self.side(params, batch["tokens"])
            options: dict[str, Any] = {"weights": batch["token_weights"]}
            options["reduction"] = "mean"
            if method.divergence == TEXT:
                mean, metrics = sequence_level_loss(student, batch["labels"], **options)
            else:
                teacher = self.teacher.side(
                    batch["states"], frozen["head"], frozen["bias"]
                )
                mean, metrics = distillation_loss(
                    teacher,
                    student,
                    divergence=method.divergence,
                    temperature=config.temperature,
                    **options,
                )
            return Loss(None, metrics | found, mean=mean)

        return Player("student", loss, text_optimizer(rate, steps))

    def frozen(self, method: Method) -> dict[str, PyTree]:
        """What the loss needs of the teacher; all of it only where it has to read."""
        frozen = {"head": self.teacher.head, "bias": self.teacher.bias}
        if method.on_policy:
            frozen["teacher"] = self.teacher.params
        return frozen

    def writer(self, params: PyTree, frozen: dict) -> Callable[[Array, dict], dict]:
        """A sampler: the second half of every window anew, read by the teacher."""

        def write(key: Array, batch: dict[str, Array]) -> dict[str, Array]:
            tokens = batch["tokens"]
            length = tokens.shape[1]
            prompt = length // 2
            model, rest = (self.apply, params), Decoding(length - prompt)
            made = generate([model], tokens[:, :prompt], rest, key=key).tokens
            written = jnp.concatenate([tokens[:, :prompt], made], axis=1)
            labels, weights = next_token(
                written, jnp.broadcast_to(jnp.arange(length) >= prompt, written.shape)
            )
            read = self.teacher.apply(frozen["teacher"], written, features=True)
            return {
                "tokens": written.astype(tokens.dtype),
                "labels": labels.astype(batch["labels"].dtype),
                "token_weights": weights.astype(jnp.float32),
                "states": read.astype(batch["states"].dtype),
            }

        return write
