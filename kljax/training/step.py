"""One functional step for one or several players, in a fixed order.

    key_n = fold_in(key, n);  for each player, for each repeat:
    g = d/dθ [Σ_i w_i loss_i(θ)] / Σ_i w_i;  θ ← θ + optimizer(g)

A player sees the updates of the players (and repeats) before it. Nothing here knows
about devices: sharded arguments give a sharded step.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kljax.arguments import whole
from kljax.training.accumulation import accumulated, cast, counted, loss_sums, replacing
from kljax.training.arguments import (
    check_batch,
    check_floating,
    check_loss,
    check_trainable,
    several,
)
from kljax.training.players import Player
from kljax.training.state import TrainState
from kljax.typing import Array, PyTree

Step = Callable[..., tuple[TrainState, dict[str, Array]]]


def make_step(
    players: Sequence[Player],
    *,
    accumulate: int = 1,
    compute_dtype: Any = None,
    unroll: bool = False,
) -> Step:
    """A pure `step(state, batch, frozen=None) -> (state, metrics)`.

    Args:
        players: who moves, in this order.
        accumulate: number of micro-batches, which divides the batch size; the sums
            of w·loss, w and gradients are divided once, so that four give what one
            does, but where a model normalizes by batch statistics: those are of each
            micro-batch, and move with each.
        compute_dtype: None, or the type (bfloat16) to which the parameters in `params`
            and `state` are cast inside the loss. Master weights, optimizer states and
            sums stay float32; `batch` and `frozen` are the loss's own business.
        unroll: lay the micro-batches out one after the other instead of scanning
            (gradients of convolutions in a scan are about 30 times slower on a CPU).

    Returns:
        The step. `batch` is a dict of arrays `[b, ...]`; `batch["weights"]` `[b]` >= 0
        weighs the mean, and where all are 0 the loss is 0. An example of weight 0
        counts for nothing: what is not finite in its rows of the batch is 0 before a
        loss sees it, and its loss may be anything. A loss that is finite there but has
        no finite derivative (a root or a logarithm at 0) still gives NaN, as 0 · ∞
        does in every library: give such rows harmless values. `frozen` is any pytree
        that nobody trains: other parameters, a divergence, a traced coefficient. The
        metrics are "<role>/loss", "<role>/grad_norm", "<role>/learning_rate" (where
        `optax.inject_hyperparams` holds one; "<role>/learning_rate/0", "/1", ... where
        it holds several), what the losses returned (of the last repeat), and "finite":
        no loss, gradient, update or new model state was NaN or infinite.

    Raises:
        TypeError: a player or its loss is none, or the loss takes other arguments; at
            trace time, for a batch that is no dict, a loss that returns no `Loss`, or
            parameters that are no floating-point numbers.
        ValueError: a role named twice, `accumulate` below 1; at trace time, for shapes
            that do not fit, a metric named twice, or an `aux` or `model_state` unlike
            the one that it replaces.

    Example:
        >>> def loss(w, *, state, frozen, batch, key):
        ...     return Loss((batch["x"] - w) ** 2)
        >>> step = jit_step(make_step([Player("model", loss, optax.sgd(0.1))]))
    """
    players, accumulate = several(players), whole("accumulate", accumulate)
    if not players:
        raise ValueError("need players and accumulate >= 1, got no player")
    for player in players:
        check_loss(player.role, player.loss)
    check_floating(compute_dtype)

    def step(
        state: TrainState, batch: dict[str, Any], frozen: PyTree = None
    ) -> tuple[TrainState, dict[str, Array]]:
        batch = counted(check_batch(batch, "batch"))
        metrics: dict[str, Array] = {"finite": jnp.bool_(True)}
        step_key = jax.random.fold_in(state.key, state.step)
        for number, player in enumerate(players):
            player_key = jax.random.fold_in(step_key, number)
            found: dict[str, Array] = {}
            for repeat in range(player.repeats):
                key = jax.random.fold_in(player_key, repeat)
                state, finite, found = update(player, state, batch, frozen, key)
                metrics["finite"] &= finite
            state = _averaged(player, state)
            if twice := sorted(metrics.keys() & found.keys()):
                raise ValueError(f"metrics named twice, rename one: {twice}")
            metrics |= found
        return replace(state, step=state.step + 1), metrics

    def update(player, state, batch, frozen, key):
        role = player.role
        if role not in state.opt_state:
            raise ValueError(f"player {role!r} is not in {sorted(state.opt_state)}")
        params = state.params[role]
        check_trainable(params, f"params[{role!r}]")

        def weighted_sum(params, carried, micro, micro_key):
            aux, model_state = carried
            seen = replace(
                state,
                params=cast(state.params, compute_dtype),
                ema=cast(state.ema, compute_dtype),
                model_state=state.model_state | {role: model_state},
                aux=aux,
            )
            loss = player.loss(
                cast(params, compute_dtype),
                state=seen,
                frozen=frozen,
                batch=micro,
                key=micro_key,
            )
            sums = loss_sums(role, loss, micro)
            aux = replacing("aux", aux, loss.aux)
            model_state = replacing("model_state", model_state, loss.model_state)
            return sums["loss"], ((aux, model_state), sums)

        def one(carried, micro, number):
            micro_key = jax.random.fold_in(key, number)
            gradient = jax.grad(weighted_sum, has_aux=True)
            grads, (carried, sums) = gradient(params, carried, micro, micro_key)
            return carried, (grads, sums)

        def mean(params, obj_fn=None):  # a line search hands on what it was given
            def one(carried, micro, number):
                micro_key = jax.random.fold_in(key, number)
                return weighted_sum(params, carried, micro, micro_key)[1]

            _, sums = accumulated(one, carried, batch, accumulate, unroll)
            return sums["loss"] / weight

        carried = (state.aux, state.model_state[role])
        (aux, model_state), (grads, sums) = accumulated(
            one, carried, batch, accumulate, unroll
        )
        weight = jnp.where(sums["weight"] == 0, 1, sums["weight"])
        grads = jax.tree.map(lambda g: (g / weight).astype(g.dtype), grads)
        loss = sums["loss"] / weight
        old = state.opt_state[role]
        updates, moved = _updates(player, grads, old, params, loss, mean)
        opt_state = replacing(f"the optimizer's state of {role!r}", old, moved)
        metrics = {name: value / accumulate for name, value in sums["scalars"].items()}
        metrics |= {name: value / weight for name, value in sums["means"].items()}
        own = _report(role, loss, grads, opt_state)
        if twice := sorted(metrics.keys() & own.keys()):
            raise ValueError(f"metrics that the step reports itself: {twice}")
        watched = [*own.values(), optax.tree.norm(updates), *_floats(model_state)]
        finite = jnp.stack([jnp.isfinite(value).all() for value in watched]).all()
        new = replace(
            state,
            params=state.params | {role: optax.apply_updates(params, updates)},
            opt_state=state.opt_state | {role: opt_state},
            model_state=state.model_state | {role: model_state},
            aux=aux,
        )
        return new, finite, metrics | own

    return step


def jit_step(step: Step) -> Step:
    """The step compiled, with the state's buffers donated (the old state dies).

    Example:
        >>> step = jit_step(lambda state, batch, frozen=None: (state, {}))
    """
    return jax.jit(step, donate_argnums=0)


def _floats(tree: PyTree) -> list[Array]:
    leaves = map(jnp.asarray, jax.tree.leaves(tree))
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _averaged(player: Player, state: TrainState) -> TrainState:
    """EMA with a ramp: d = min(decay, (1 + n) / (10 + n)); ema ← d ema + (1 − d) θ."""
    if player.ema_decay is None:
        return state
    n = state.step.astype(jnp.float32)
    decay = jnp.minimum(player.ema_decay, (1 + n) / (10 + n))

    def move(average, value):
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            return value
        return (average + (1 - decay) * (value - average)).astype(average.dtype)

    average = jax.tree.map(move, state.ema[player.role], state.params[player.role])
    return replace(state, ema=state.ema | {player.role: average})


def _updates(
    player: Player,
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
    loss: Array,
    loss_of: Callable[[PyTree], Array],
) -> tuple[PyTree, PyTree]:
    """The optimizer's answer; one that asks is given the loss, value and function."""
    optimizer: Any = player.optimizer
    if not isinstance(optimizer, optax.MultiSteps):  # which passes on what it is given
        optimizer = optax.with_extra_args_support(optimizer)
    known = {"value": loss, "grad": grads, "value_fn": loss_of, "obj_fn": loss_of}
    failure = None
    for extra in (known, {}):  # some that could take these refuse them
        try:
            return optimizer.update(grads, opt_state, params, **extra)
        except Exception as error:
            failure = error
    raise TypeError(
        f"the optimizer of {player.role!r} cannot be updated from gradients, "
        f"parameters, {', '.join(known)}: {failure}"
    ) from failure


def _report(
    role: str, loss: Array, grads: PyTree, opt_state: PyTree
) -> dict[str, Array]:
    rates = {
        f"{role}/learning_rate/{number}": jnp.asarray(rate)
        for number, rate in enumerate(_learning_rates(opt_state))
    }
    if len(rates) == 1:
        rates = {f"{role}/learning_rate": rate for rate in rates.values()}
    return {f"{role}/loss": loss, f"{role}/grad_norm": optax.tree.norm(grads)} | rates


def _learning_rates(opt_state: PyTree) -> list[Any]:
    """The scalars `hyperparams["learning_rate"]` of `optax.inject_hyperparams`."""
    place = (
        jax.tree_util.GetAttrKey("hyperparams"),
        jax.tree_util.DictKey("learning_rate"),
    )
    leaves = jax.tree_util.tree_leaves_with_path(opt_state)
    return [leaf for path, leaf in leaves if path[-2:] == place and not jnp.ndim(leaf)]
