"""The logits of all models of a seed on some rows, and what is scored of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.fusion import scoring
from experiments.fusion.training import Models
from kljax.data.pairs import Rows
from kljax.metrics import exact_match
from kljax.models.language.task_arithmetic import add_task_vectors, task_vector
from kljax.typing import Array, Float, PyTree

__all__ = ["BINS", "Panel"]

BINS = 40
"""Of the histograms of alpha, over [0, 2]."""
_matched = jax.jit(exact_match)


class Panel:
    """The logits of all models of a seed on some rows, each computed once."""

    def __init__(self, session: Any, models: Models, rows: Rows):
        self.session, self.models, self.rows = session, models, rows
        # Text is predicted everywhere; answers of all tasks have one shape.
        whole = rows.answer[:, 1:].all()
        length = 0 if whole else session.answer_length
        self.place, self.target, self.where = scoring.answers(rows, length)

    def _logits(self, size: str, params: PyTree) -> Float[Array, "n m v"]:
        return scoring.predictions(
            self.session.trainer.apply[size],
            params,
            self.rows,
            self.place,
            chunk=self.session.config.chunk,
        )

    @functools.cached_property
    def large(self) -> Float[Array, "n m v"]:
        return self._logits("large", self.models.large)

    @functools.cached_property
    def small(self) -> Float[Array, "n m v"]:
        return self._logits("small", self.models.small)

    @functools.cache  # noqa: B019 (as long as the panel)
    def expert(self, task: str) -> Float[Array, "n m v"]:
        return self._logits("small", self.models.experts[task])

    def experts(self) -> Float[Array, "n m t v"]:
        """All task experts, in order."""
        names = [name for name in self.models.experts if name != "domain"]
        return jnp.stack([self.expert(name) for name in names], axis=-2)

    def soup(self) -> Float[Array, "n m v"]:
        """Experts merged in weight space: θ_S + λ Σ_t (θ_t − θ_S)."""
        base, experts = self.models.small, self.models.experts
        vectors = [task_vector(v, base) for k, v in experts.items() if k != "domain"]
        merged = add_task_vectors(base, vectors, self.session.config.soup_weight)
        return self._logits("small", merged)

    def alone(self, logits: Array) -> tuple[float, float]:
        """Exact match and nats per token."""
        exact, nats = _matched(self.target, logits, where=self.where)
        return float(exact.mean()), float(nats.mean())

    def fused(
        self, rules: tuple[str, ...], experts: Array, tuned: float = 1.0
    ) -> dict[str, scoring.Scored]:
        """Rules with these experts [n m t v]."""
        found = scoring.scored(
            rules, self.large, self.small, experts, self.target, self.where, tuned
        )
        return jax.device_get(found)

    def tuned_weight(self, experts: Array, *, exact: bool = True) -> float:
        """The static weight that these rows choose."""
        return scoring.tuned_weight(
            self.large, self.small, experts, self.target, self.where, exact=exact
        )

    def histogram(self, alpha: Array) -> list[int]:
        """How often a weight occurs on tokens that count."""
        values = np.asarray(alpha)[..., 0][self.where]
        return np.histogram(values, bins=BINS, range=(0.0, 2.0))[0].tolist()
