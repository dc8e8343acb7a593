"""Texts and models of logit fusion: two sizes, an expert and an oracle per task."""

import dataclasses
import functools
import hashlib
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import kit
from kljax.data.packing import Packed, Text, mixed
from kljax.data.pairs import Rows, encoded
from kljax.data.readers.python import code, prose
from kljax.data.tasks import Example, draw, few_shot, line
from kljax.divergences import label_cross_entropy
from kljax.models.files.pretrained import from_pretrained
from kljax.models.files.trimmed import trimmed
from kljax.models.functional import parameter_count
from kljax.models.language.configuration import TransformerConfig
from kljax.models.language.transformer import PureTransformer, transformer
from kljax.models.language.vocabulary import Characters
from kljax.objectives.distillation import per_sequence
from kljax.training import Loss, Player, init_state, jit_step, make_step
from kljax.training.optimizers import adam, clipped, warmup_cosine
from kljax.typing import Array, PyTree

DOMAIN = "domain"
"""The text of another kind, beside the tasks."""
SIZES = ("large", "small")


@dataclasses.dataclass(frozen=True)
class SizeConfig:
    """A transformer: RMS norms, rotary positions, a plain MLP, tied head."""

    width: int = 64
    depth: int = 4
    heads: int = 4
    source: str = ""
    """A published model's name or folder in place of one trained here."""

    def transformer(self, vocab_size: int, max_length: int) -> TransformerConfig:
        sizes = {name: getattr(self, name) for name in ("width", "depth", "heads")}
        kind = {"mlp": "plain", "activation": "gelu_tanh", "max_length": max_length}
        return TransformerConfig(vocab_size=vocab_size, **sizes, **kind)


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """A training run; no steps, no run."""

    steps: int
    batch: int
    rate: float
    muon: bool = True
    """Muon for matrices and Adam for the rest; else Adam for all."""

    def optimizer(self) -> optax.GradientTransformation:
        """Warm-up, then a cosine to a tenth; the same recipe for every model."""
        rate = warmup_cosine(self.rate, self.steps, final=0.1)
        muon = optax.contrib.muon(rate, adam_b2=0.98)
        return clipped(muon) if self.muon else adam(rate)


@dataclasses.dataclass(frozen=True)
class Models:
    """Of one seed; experts and oracles by task, none where nothing was tuned."""

    large: PyTree
    small: PyTree
    experts: dict[str, PyTree]
    oracles: dict[str, PyTree]


def text_loss(apply: PureTransformer) -> Callable[..., Loss]:
    """Mean cross-entropy over the tokens to be predicted, per row."""

    def loss(params, *, state, frozen, batch, key):
        tokens, target = batch["tokens"], batch["answer"][:, 1:]
        losses = label_cross_entropy(tokens[:, 1:], apply(params, tokens[:, :-1]))
        return Loss(per_sequence(jnp.where(target, losses, 0.0), target), {})

    return loss


class Lab:
    """Texts, vocabulary and models of a run; what is not asked for is not trained."""

    def __init__(self, study: kit.Study):
        self.study, self.config = study, study.config
        self.seen, self.unseen = self.config.tasks.names()
        self.tasks = (*self.seen, *self.unseen)
        # Other versions of the packages give a slightly different text.
        text = prose(self.config.packages, self.config.characters)
        other = code(self.config.domain, self.config.characters)
        study.pin(**{"text/sha256": _checksum(text), "domain/sha256": _checksum(other)})
        self.vocabulary, shapes, self.published = self._models(text + other)
        pairs = {size: transformer(shape) for size, shape in shapes.items()}
        self.apply = {size: apply for size, (apply, _) in pairs.items()}
        self.initial = {size: initial for size, (_, initial) in pairs.items()}
        # The last tenth of a text is held out.
        texts = [np.asarray(self.vocabulary.encode(x), np.int32) for x in (text, other)]
        parts = [np.split(ids, [len(ids) * 9 // 10]) for ids in texts]
        (self.text, _), (self.domain, self.held_out) = (
            [Text(part, self.config.length, self.vocabulary.end) for part in both]
            for both in parts
        )
        self.lengths: dict[int, int] = {}
        for shots in (self.config.shots, 0):
            every = [
                self.rows(task, split, getattr(self.config, split), shots)
                for task in self.tasks
                for split in ("test", "validation")
            ]
            self.lengths[shots] = max(rows.tokens.shape[1] for rows in every)
            self.answer_length = int(max(r.answer.sum(axis=1).max() for r in every))

    def _models(self, corpus: str) -> tuple[Any, dict[str, Any], dict[str, PyTree]]:
        """The vocabulary of all; shapes by size; parameters of published models."""
        sizes = {size: getattr(self.config, size) for size in SIZES}
        names = {size: one.source for size, one in sizes.items() if one.source}
        vocabulary, found = Characters(), {}
        if names:
            # A trimmed vocabulary must have the tokens of all tasks.
            lines = [
                line(one)
                for task in self.tasks
                for split in ("validation", "test")
                for one in draw(task, split, 500, self.config.tasks, 0)
            ]
            models = {size: from_pretrained(name) for size, name in names.items()}
            vocabulary, found = trimmed(models, lines, corpus, self.config.vocabulary)
        shapes = {
            size: found[size][0]
            if size in found
            else one.transformer(vocabulary.size, self.config.max_length)
            for size, one in sizes.items()
        }
        return vocabulary, shapes, {size: params for size, (_, params) in found.items()}

    def rows(self, task: str, split: str, count: int, shots: int = 0) -> Rows:
        """Examples that no model was trained on, the same for all seeds; rows of one
        length for all tasks."""
        tasks, multiple = self.config.tasks, self.config.multiple
        drawn = draw(task, split, count, tasks, 1)
        if shots:
            solved = draw(task, tasks.to_learn(task), 50, tasks, 2)
            drawn = few_shot(drawn, solved, shots)
        least = self.lengths.get(shots, 0)
        return encoded(self.vocabulary, _pairs(drawn), multiple=multiple, least=least)

    def passages(self, count: int, validation: bool = False) -> Rows:
        """Held-out text of the other kind."""
        width = self.config.length - 1
        count = min(count, len(self.held_out.ids) // width // 2)
        first = count if validation else 0
        return self.held_out.at([(first + i) * width for i in range(count)])

    # ------------------------------------------------------------ models

    @functools.cache  # noqa: B019 (one lab per run)
    def _packed(self, seed: int) -> dict[str, Packed]:
        """A seed's training examples."""
        tasks, count = self.config.tasks, self.config.examples
        found = {}
        for task in self.tasks:
            drawn = _pairs(draw(task, tasks.to_learn(task), count, tasks, seed))
            found[task] = Packed(self.vocabulary, drawn, self.config.length)
        return found

    @functools.cache  # noqa: B019
    def _step(self, size: str, fitting: FitConfig) -> tuple[Any, Any]:
        """How the models of a size begin, and a step: each compiled once."""
        players = [Player("model", text_loss(self.apply[size]), fitting.optimizer())]

        def begin(key: Array, params: PyTree) -> Any:
            return init_state(key, {"model": params}, players)

        return jax.jit(begin), jit_step(make_step(players))

    def _fit(self, label, size, fitting, params, batches) -> PyTree:
        """A model's parameters after training; the label ends with the seed."""
        begin, step = self._step(size, fitting)
        state = begin(jax.random.key(label[-1]), params)
        trained = self.study.fit(label, step, state, batches, steps=fitting.steps)
        return trained.params["model"]

    def _base(self, size: str, seed: int) -> PyTree:
        """A model before fine-tuning: published, or pretrained here."""
        if size in self.published:
            return self.published[size]
        fitting = getattr(self.config, f"{size}_pretraining")
        key = jax.random.fold_in(jax.random.key(seed), size == "small")
        kinds, share = list(self._packed(seed).values()), self.config.trace
        batches = mixed(self.text, kinds, fitting.batch, share, seed, 1)
        label = ("pretrain", size, seed)
        return self._fit(label, size, fitting, self.initial[size](key), batches)

    def _tuned(self, role: str, size: str, base: PyTree, seed: int) -> dict:
        """The base fine-tuned on every task, and on the other kind of text, if any."""
        fitting, kinds = getattr(self.config, role), self._packed(seed)
        if not fitting.steps:
            return {}
        sources: dict[str, Packed | Text] = {task: kinds[task] for task in self.seen}
        if len(self.domain.ids):
            sources[DOMAIN] = self.domain
        found = {}
        for task, source in sources.items():
            batches = source.batches(fitting.batch, seed, 2, zlib.crc32(task.encode()))
            found[task] = self._fit((role, task, seed), size, fitting, base, batches)
        return found

    @functools.cache  # noqa: B019
    def models(self, seed: int) -> Models:
        """Everything of one seed: two bases, an expert and an oracle per task."""
        large, small = (self._base(size, seed) for size in SIZES)
        experts = self._tuned("expert", "small", small, seed)
        oracles = self._tuned("oracle", "large", large, seed)
        return Models(large, small, experts, oracles)

    def weights(self) -> dict[str, int]:
        """Parameters of the two sizes."""
        make = functools.partial(jax.eval_shape, key=jax.random.key(0))
        return {size: parameter_count(make(self.initial[size])) for size in SIZES}


def _pairs(examples: list[Example]) -> list[tuple[str, str]]:
    return [(one.prompt, one.answer) for one in examples]


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
