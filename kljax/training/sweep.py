"""Members of a sweep in one program, or one after the other: the same numbers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.training.players import Player
from kljax.training.population import stacked
from kljax.training.state import TrainState
from kljax.training.step import Step, jit_step, make_step
from kljax.typing import PyTree

__all__ = ["Batches", "Sweep"]

Batches = Callable[..., dict[str, Any]]

_copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What differs between the members of a sweep, and what does not.

    Args:
        players: `players(own)` are those of a member.
        members: label to the member's own settings, trees of one shape.
        state: `state(own)` is a member's first state, or all of them stacked.
        batches: `batches(n)`, or `batches(n, label)` where `each` has its own.
        frozen: what all losses see; it is not stacked.
        evaluate: a pure function of one member's state, to a dict of numbers.
    """

    players: Callable[[PyTree], Sequence[Player]]
    members: Mapping[Any, PyTree]
    state: TrainState | Callable[[PyTree], TrainState]
    batches: Batches
    each: bool = False
    frozen: PyTree = None
    evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None

    @property
    def own(self) -> list[PyTree]:
        """Settings of every member as arrays."""
        return [jax.tree.map(jnp.asarray, one) for one in self.members.values()]

    def step(self, state: TrainState, batch: dict, frozen: PyTree) -> Any:
        """A member's step; players are made of its traced settings."""
        shared, own = frozen
        return make_step(self.players(own))(state, batch, shared)

    def together(self) -> dict[str, Any]:
        """The arguments of `fit` for all members in one program."""
        own = stacked(self.own)
        step: Step = jax.vmap(self.step, (0, 0 if self.each else None, (None, 0)))
        labels = list(self.members)

        def batches(n: int) -> dict[str, Any]:
            every = [self.batches(n, label) for label in labels]
            return jax.tree.map(lambda *leaves: np.stack(leaves), *every)

        state: Any = self.state
        if callable(state):
            state = jax.jit(jax.vmap(state))(own)
        return {
            "players": jit_step(step),
            "state": _copied(state),
            "batches": batches if self.each else self.batches,
            "frozen": (self.frozen, own),
            "evaluate": self._evaluation(jax.vmap),
        }

    def apart(self) -> list[dict[str, Any]]:
        """The arguments of `fit` for every member; one program serves all."""
        step, evaluate = jit_step(self.step), self._evaluation(lambda f: f)
        start: Any = jax.jit(self.state) if callable(self.state) else None
        found = []
        for i, (label, own) in enumerate(zip(self.members, self.own)):
            state = start(own) if start else jax.tree.map(lambda x: x[i], self.state)  # noqa: B023
            batches = (lambda n, one=label: self.batches(n, one)) if self.each else None
            found.append(
                {
                    "players": step,
                    "state": state,
                    "batches": batches or self.batches,
                    "frozen": (self.frozen, own),
                    "evaluate": evaluate,
                }
            )
        return found

    def _evaluation(self, many: Callable) -> Callable | None:
        if self.evaluate is None:
            return None
        compiled = jax.jit(many(self.evaluate))
        return lambda state: jax.device_get(compiled(state))
