"""What the doors of this room take; anything else is told what was expected."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import described, unlike
from kljax.typing import PyTree


def several(players: Any) -> tuple[Any, ...]:
    """The players as a tuple, each role once.

    Raises:
        TypeError: not a sequence of players.
        ValueError: a role named twice.
    """
    if not hasattr(players, "__iter__"):
        raise unlike("players", players, "a list of Player", ": write [Player(...)]")
    players = tuple(players)
    for number, player in enumerate(players):
        if not all(hasattr(player, name) for name in ("role", "loss", "optimizer")):
            raise unlike(f"players[{number}]", player, "a Player")
    roles = [player.role for player in players]
    if len(set(roles)) < len(roles):
        raise ValueError(f"players name a role twice (use `repeats`): {roles}")
    return players


def check_function(name: str, function: Any, form: str, *given: Any, **named: Any):
    """Whether a function can be called as it will be.

    Args:
        name: what a message calls it, "batches" say.
        function: what is looked at.
        form: how it should look, "batches(n) -> dict" say.
        given: stand-ins for its positional arguments.
        named: stand-ins for its keyword arguments.

    Raises:
        TypeError: it is no function, or takes other arguments.
    """
    if not callable(function):
        raise unlike(name, function, f"a function {form}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin has none to look at
        return
    try:
        signature.bind(*given, **named)
    except TypeError as error:
        got = getattr(function, "__name__", type(function).__name__)
        raise TypeError(
            f"{name} must be a function {form}, got {got}{signature}: {error}"
        ) from None


def check_loss(role: str, loss: Any) -> None:
    """Whether a loss can be called as the step calls it.

    Raises:
        TypeError: it is no function, or takes other arguments.
    """
    form = "loss(params, *, state, frozen, batch, key) -> Loss"
    named = dict.fromkeys(("state", "frozen", "batch", "key"))
    check_function(f"the loss of {role!r}", loss, form, None, **named)


def check_optimizer(role: str, optimizer: Any) -> None:
    """Whether an optimizer is one.

    Raises:
        TypeError: it has no `init` and `update`.
    """
    if not all(callable(getattr(optimizer, n, None)) for n in ("init", "update")):
        raise unlike(
            f"the optimizer of {role!r}",
            optimizer,
            "an optax transformation such as optax.adam(1e-3)",
        )


def check_arrays(tree: PyTree, name: str) -> None:
    """Whether a tree holds arrays and numbers alone.

    Raises:
        TypeError: a leaf is something else; the message says where.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) or hasattr(leaf, "__jax_array__"):
            continue
        numbers = isinstance(leaf, np.ndarray | np.generic | bool | int | float)
        if not numbers or np.asarray(leaf).dtype.kind in "OSUMmV":
            # The number types of JAX that NumPy lacks are of kind V.
            if numbers and jnp.issubdtype(np.asarray(leaf).dtype, np.number):
                continue
            raise unlike(
                f"{name}{jax.tree_util.keystr(path)}",
                leaf,
                "a NumPy or JAX array of numbers",
            )


def check_batch(batch: Any, call: str) -> dict[str, Any]:
    """A batch as a dict of arrays.

    Args:
        batch: what is looked at.
        call: where it came from, such as "batches(3)".

    Raises:
        TypeError: it is no dict, or a value is neither array nor number.
    """
    if not isinstance(batch, Mapping):
        raise unlike(call, batch, "a dict of arrays [b, ...]")
    batch = dict(batch)
    check_arrays(batch, call)
    return batch


def check_calls(step: Any, batches: Any, evaluate: Any, progress: Any) -> None:
    """Whether the functions that the loop is given can be called as it calls them.

    Raises:
        TypeError: one cannot; the message says what to write.
    """
    check_function("step", step, "from make_step(players)", None, None, None)
    form = "of the number of finished steps, batches(n) -> dict of arrays"
    if hasattr(batches, "__next__"):
        form += " (an iterator could not be resumed)"
    elif isinstance(batches, list | tuple):
        form += ", such as lambda n: data[n % len(data)]"
    check_function("batches", batches, form, 0)
    if evaluate is not None:
        check_function("evaluate", evaluate, "evaluate(state) -> dict", None)
    if progress is not None and (
        isinstance(progress, type) or not callable(getattr(progress, "task", None))
    ):
        raise TypeError(
            "progress must come from rich_progress() or silent(), or be None, got "
            f"{described(progress)}"
        )


def check_state(state: Any, kind: type, frozen: PyTree, donated: bool) -> None:
    """Whether a step can take this state and these frozen arrays.

    Args:
        state: a `kind`.
        kind: `TrainState`.
        frozen: any pytree of arrays.
        donated: whether the step is known to consume the state's buffers.

    Raises:
        TypeError: another type, or a leaf of `frozen` that is no array.
        ValueError: the state is consumed, or would be while `frozen` holds its arrays.
    """
    if not isinstance(state, kind):
        raise unlike("state", state, "a TrainState from init_state")
    leaves = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
    if any(leaf.is_deleted() for leaf in leaves):
        raise ValueError(
            "state was consumed by a step before (its buffers are donated): go on with "
            "the state that came back, or make one with init_state"
        )
    check_arrays(frozen, "frozen")
    if donated and {*map(id, leaves)} & {*map(id, jax.tree.leaves(frozen))}:
        raise ValueError(
            "frozen holds arrays of state, which the step consumes: pass copies, "
            "jax.tree.map(jnp.copy, ...)"
        )


def check_floating(compute_dtype: Any) -> None:
    """Whether losses can be computed in this type.

    Raises:
        TypeError: it names no floating-point type.
    """
    try:
        known = compute_dtype is None or jnp.issubdtype(compute_dtype, jnp.floating)
    except TypeError:
        known = False
    if not known:
        raise TypeError(
            "compute_dtype must be a floating-point type such as jnp.bfloat16, or "
            f"None, got {compute_dtype!r}"
        )


def check_trainable(tree: PyTree, name: str) -> None:
    """Whether a tree can be differentiated: floating-point leaves alone.

    Raises:
        TypeError: a leaf is of another type.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} has type {leaf.dtype} and cannot "
                "be trained: keep it in frozen, in model_state or in the model"
            )
