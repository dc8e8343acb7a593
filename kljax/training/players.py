"""Who learns, and what a loss returns."""

import dataclasses
import numbers
from typing import Any, NamedTuple, Protocol, runtime_checkable

import optax

from kljax.arguments import unlike, whole
from kljax.training.arguments import check_optimizer
from kljax.training.state import TrainState
from kljax.typing import Array, Float, Key, PyTree


class Loss(NamedTuple):
    """What a player's loss returns.

    Fields:
        per_example: one loss per example, `[b]`, in nats where it is a divergence; or
            None, if `mean` is given.
        metrics: flat dict; per-example values `[b]` are averaged like the loss, scalars
            are taken as they are.
        aux: replaces `state.aux`; None leaves it.
        model_state: replaces `state.model_state[role]`; None leaves it.
        mean: the mean over the batch, `[]`, in place of `per_example`: where a loss
            takes it faster itself. The batch then has no "weights", and micro-batches
            count alike.

    Example:
        >>> import jax.numpy as jnp
        >>> Loss(jnp.zeros(4), {"accuracy": jnp.ones(4)}).aux is None
        True
    """

    per_example: Float[Array, "b"] | None
    metrics: dict[str, Array] = {}  # noqa: RUF012 (an empty pytree, never written to)
    aux: PyTree = None
    model_state: PyTree = None
    mean: Float[Array, ""] | None = None


@runtime_checkable
class LossFn(Protocol):
    """`loss(params, *, state, frozen, batch, key) -> Loss`, params of one role.

    `state` holds every role as the players before left it; nothing in it is
    differentiated. `key` is new for every step, player, repeat and micro-batch.
    """

    def __call__(
        self,
        params: PyTree,
        /,
        *,
        state: TrainState,
        frozen: PyTree,
        batch: dict[str, Any],
        key: Key[Array, ""],
    ) -> Loss: ...


@dataclasses.dataclass(frozen=True)
class Player:
    """A role that learns.

    Args:
        role: key into the state's dicts, such as "student".
        loss: the loss of this role's parameters.
        optimizer: an optax transformation, its state any pytree. It is given the
            gradients and the parameters and, where it asks, `value`, `grad`, `value_fn`
            and `obj_fn` (of the parameters, with this step's batch and key). One that
            skips steps which are not finite does not keep `fit` from stopping.
        repeats: updates per step, at least 1; each sees the one before.
        ema_decay: None, or the decay of a moving average in [0, 1), reached by the
            ramp min(ema_decay, (1 + n) / (10 + n)) with n the steps finished before.
            It moves once per step, after the last repeat.

    Raises:
        TypeError: `role` is no name, `optimizer` no optax transformation, `repeats` no
            int, or `ema_decay` no number.
        ValueError: `repeats` or `ema_decay` out of range.
    """

    role: str
    loss: LossFn
    optimizer: optax.GradientTransformation
    repeats: int = 1
    ema_decay: float | None = None

    def __post_init__(self):
        if not isinstance(self.role, str) or not self.role:
            raise unlike("role", self.role, "a name")
        check_optimizer(self.role, self.optimizer)
        whole("repeats", self.repeats)
        if self.ema_decay is None:
            return
        if not isinstance(self.ema_decay, numbers.Real):
            raise unlike("ema_decay", self.ema_decay, "a number or None")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
