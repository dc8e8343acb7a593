"""The state in which a run starts."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kljax.arguments import unlike
from kljax.training.arguments import check_arrays, several
from kljax.training.players import Player
from kljax.training.state import TrainState, is_key
from kljax.typing import Array, Key, PyTree


def init_state(
    key: Key[Array, ""],
    params: Mapping[str, PyTree],
    players: Sequence[Player],
    *,
    model_state: Mapping[str, PyTree] | None = None,
    aux: PyTree = None,
) -> TrainState:
    """The state before the first step.

    Every leaf is copied, so a student may start as the teacher's own arrays. The
    players' 16-bit floating-point parameters become float32 (the master weights);
    the moving averages start as the parameters.

    Args:
        key: typed key, from `jax.random.key`; all randomness of the run comes from it.
        params: parameters by role; roles that are not players stay as they are.
        players: who moves; each needs its role in `params`.
        model_state: mutable model state by role; roles left out have none.
        aux: what the objectives carry along, any pytree of arrays.

    Returns:
        A `TrainState` at step 0.

    Raises:
        TypeError: `key` is not a typed key, `params` no mapping, a player no `Player`,
            or an optimizer cannot start from its parameters.
        ValueError: several keys; a player's role is missing, empty or named twice.

    Example:
        >>> import optax
        >>> from kljax.training import Player, init_state
        >>> player = Player("student", loss=None, optimizer=optax.sgd(0.1))
        >>> state = init_state(jax.random.key(0), {"student": jnp.ones(3)}, [player])
        >>> int(state.step)
        0
    """
    if not is_key(key):
        raise TypeError(f"key must be a typed key from jax.random.key, got {key!r}")
    if key.shape:
        raise ValueError(
            f"key must be one key, got shape {key.shape}: jax.vmap init_state over them"
        )
    players = several(players)
    for name, value in {"params": params, "model_state": model_state or {}}.items():
        if not isinstance(value, Mapping):
            raise unlike(name, value, "a dict by role", ': write {"student": ...}')
    roles = [player.role for player in players]
    if missing := sorted(set(roles) - set(params)):
        raise ValueError(
            f"params lack the players' roles {missing}, they have "
            f"{sorted(map(str, params))}: params is a dict by role, "
            f"{{{missing[0]!r}: ...}}"
        )
    for role in roles:
        if not jax.tree.leaves(params[role]):
            raise ValueError(f"params[{role!r}] holds no array: nothing can learn")
    for name, tree in {
        "params": params,
        "model_state": model_state,
        "aux": aux,
    }.items():
        check_arrays(tree, name)
    if unknown := sorted(set(model_state or {}) - set(params)):
        raise ValueError(f"model_state has roles without params: {unknown}")

    # One compiled function: leaf by leaf, every new shape would be compiled on its own.
    @jax.jit
    def build(key, params, model_state, aux):
        for role in roles:
            params[role] = jax.tree.map(_master, params[role])
        averaged = [player.role for player in players if player.ema_decay is not None]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=jax.tree.map(_copy, params),
            model_state=jax.tree.map(_copy, model_state),
            opt_state={
                p.role: jax.tree.map(_copy, _started(p, params[p.role]))
                for p in players
            },
            ema={role: jax.tree.map(_copy, params[role]) for role in averaged},
            aux=jax.tree.map(_copy, aux),
            key=_copy(key),
        )

    mutable = {role: None for role in params} | dict(model_state or {})
    return build(key, dict(params), mutable, aux)


def _started(player: Player, params: PyTree) -> PyTree:
    try:
        return player.optimizer.init(params)
    except Exception as error:
        raise TypeError(
            f"the optimizer of {player.role!r} cannot start from the parameters "
            f"({type(error).__name__}: {error}); does it name leaves or labels that "
            "they have?"
        ) from error


def _master(leaf: Any) -> Any:
    leaf = jnp.asarray(leaf)
    small = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4
    return leaf.astype(jnp.float32) if small else leaf


def _copy(leaf: Any) -> Any:
    """A buffer of its own: donation fails where two leaves share one."""
    if is_key(leaf):
        data = jnp.copy(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    # Strongly typed: after a weakly typed leaf the second step would compile anew.
    return jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True)
