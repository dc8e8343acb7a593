"""The divergence of two linear heads over a mesh of tokens × vocabulary.

A device holds its tokens and its share of both heads. Per chunk of tokens the devices
of a row exchange ten numbers a token, from which each folds the state of the whole
vocabulary; one number more where the divergence has ``Σ q grad_q ≠ 0``. Gradients in
the heads stay where the heads are and are summed over the tokens once, at the end;
those in the hidden states are summed over the vocabulary once. The rule of
differentiation stands outside of `shard_map`: inside, a replicated output would have
its gradient divided by the size of the axis.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from kljax.kernels.linear import fused as linear
from kljax.kernels.linear.rows import settled, shown, slope_in_weight, weigh
from kljax.typing import Array, Float

Operands = dict[str, Array]
_FAR = 60.0


class Layout(NamedTuple):
    """The mesh, and which of its axes split tokens and vocabulary (None: neither)."""

    mesh: Mesh
    tokens: str | None
    vocab: str | None

    def size(self, axis: str | None) -> int:
        return 1 if axis is None else self.mesh.shape[axis]


class _State(NamedTuple):
    """What a device tells the others of its outcomes; ``[c]`` each."""

    top_p: Array
    z_p: Array
    """In units of its own maximum, `top_p`."""
    top_q: Array
    z_q: Array
    origin_p: Array
    origin_q: Array
    """The logits at the target's mode among the outcomes possible on both sides."""
    joint: Array
    excess: Array
    """``Σ e^{b − origin_q} − e^{a − origin_p}``."""
    lone_p: Array
    lone_q: Array
    """Whether an outcome is possible on this side alone."""


class _Rows(NamedTuple):
    """Both sides normalised over the whole vocabulary; a device's share of it."""

    log_p: Array
    log_q: Array
    log_u: Array
    live: Array
    """Rows with outcomes on both sides and a finite value."""
    infinite: Array
    broken: Array
    """Rows with a NaN, of whichever device."""


def _local_state(a: Array, b: Array) -> _State:
    p_zero, q_zero = a == -jnp.inf, b == -jnp.inf
    joint = ~p_zero & ~q_zero
    top_p, top_q = jnp.max(a, axis=-1), jnp.max(b, axis=-1)
    mode = jnp.max(jnp.where(joint, a, -jnp.inf), axis=-1)
    at_mode = joint & (a == mode[..., None])
    q_there = jnp.max(jnp.where(at_mode, b, -jnp.inf), axis=-1)
    any_joint = mode > -jnp.inf
    origin_p = _possible(jnp.where(any_joint, mode, top_p))
    origin_q = _possible(jnp.where(any_joint, q_there, top_q))
    z_p = jnp.sum(jnp.exp(a - _possible(top_p)[..., None]), axis=-1)
    z_q = jnp.sum(jnp.exp(b - _possible(top_q)[..., None]), axis=-1)
    shifted_a = jnp.minimum(a - origin_p[..., None], _FAR)
    shifted_b = jnp.minimum(b - origin_q[..., None], _FAR)
    d = jnp.where(joint, shifted_a - shifted_b, 0)
    near = joint & (jnp.abs(d) < 1)
    e_p = jnp.exp(shifted_a)
    close = e_p * jnp.expm1(-jnp.where(near, d, 0))
    excess = jnp.sum(jnp.where(near, close, jnp.exp(shifted_b) - e_p), axis=-1)
    flags = any_joint, jnp.any(~p_zero & q_zero, -1), jnp.any(p_zero & ~q_zero, -1)
    has_joint, lone_p, lone_q = (x.astype(a.dtype) for x in flags)
    return _State(
        top_p, z_p, top_q, z_q, origin_p, origin_q, has_joint, excess, lone_p, lone_q
    )


def _possible(x: Array) -> Array:
    return jnp.where(jnp.isneginf(x), 0, x)


def _normalized(divergence: Any, a: Array, b: Array, axis: str | None) -> _Rows:
    """Exchanges the states and folds them."""
    local = jnp.stack(_local_state(a, b))
    states = local[None] if axis is None else lax.all_gather(local, axis)
    s = _State(*jnp.moveaxis(states, 1, 0))  # each [devices, c]
    # One origin for all: that of the device with the largest target logit in common.
    rank = jnp.where(s.joint > 0, s.origin_p, -jnp.inf)
    first = jnp.argmax(rank, axis=0, keepdims=True)
    origin_p, origin_q = (
        jnp.take_along_axis(x, first, axis=0)[0] for x in (s.origin_p, s.origin_q)
    )

    def log_normalizer(top, z, origin):
        highest = _possible(jnp.max(top, axis=0))
        total = jnp.sum(jnp.where(z == 0, 0, z * jnp.exp(top - highest)), axis=0)
        some = total != 0
        return jnp.where(some, jnp.log(jnp.where(some, total, 1)), 0) + (
            highest - origin
        ), some

    log_zp, p_some = log_normalizer(s.top_p, s.z_p, origin_p)
    log_zq, q_some = log_normalizer(s.top_q, s.z_q, origin_q)
    # Every device's excess in units of the common origin: nothing cancels.
    move_p, move_q = s.origin_p - origin_p, s.origin_q - origin_q
    own_p = s.z_p * jnp.exp(jnp.minimum(_possible(s.top_p) - s.origin_p, _FAR))
    scale_p, scale_q = (jnp.exp(jnp.minimum(x, _FAR)) for x in (move_p, move_q))
    tilt = scale_p * jnp.expm1(jnp.minimum(move_q - move_p, _FAR))
    tilted = scale_q * s.excess + tilt * own_p
    pieces = jnp.where(s.z_p == 0, scale_q * s.excess, tilted)
    x = jnp.sum(pieces, axis=0) * jnp.exp(-jnp.clip(log_zp, -_FAR, _FAR))
    small = jnp.abs(x) < 0.5
    shift = jnp.where(small, jnp.log1p(jnp.where(small, x, 0)), log_zq - log_zp)
    infinite = (jnp.max(s.lone_p, 0) > 0) & (divergence.dual_at_zero == jnp.inf)
    infinite |= (jnp.max(s.lone_q, 0) > 0) & (divergence.at_zero == jnp.inf)
    # Differences of close numbers first: exact for a large common offset.
    a, b = a - origin_p[..., None], b - origin_q[..., None]
    joint = (a > -jnp.inf) & (b > -jnp.inf)
    d = jnp.where(joint, a - b, 0) + shift[..., None]
    log_p, log_q = a - log_zp[..., None], b - log_zq[..., None]
    full, broken = p_some & q_some, jnp.isnan(log_zp + log_zq)
    infinite &= full & ~broken
    return _Rows(log_p, log_q, d, full & ~infinite, infinite, broken)


def _terms(divergence: Any, rows: _Rows) -> Array:
    """This device's part of each row's value, finite parts only."""
    terms = divergence.term(rows.log_p, rows.log_q, rows.log_u)
    terms = jnp.where(rows.live[..., None], terms, 0)
    return shown(jnp.sum(terms, axis=-1), rows.broken)


def _slope(divergence, rows: _Rows, side: str, axis: str | None) -> Array:
    """The gradient in this device's logits of one side."""
    if side == "q":
        mass, own = rows.log_q, divergence
        product = own.grad_term(rows.log_p, rows.log_q, rows.log_u)
    else:
        mass, own = rows.log_p, divergence.dual
        product = own.grad_term(rows.log_q, rows.log_p, -rows.log_u)
    product = jnp.where(rows.live[..., None], product, 0)
    product = shown(product, rows.broken[..., None])
    if own.centered:
        return product
    mean = jnp.sum(product, axis=-1, keepdims=True)
    mean = mean if axis is None else lax.psum(mean, axis)
    return product - jnp.where(rows.live[..., None], jnp.exp(mass), 0) * mean


def _specs(layout: Layout, names) -> dict[str, P]:
    """How each operand lies on the mesh."""

    def spec(name):
        if name in linear.PER_TOKEN:
            return P(layout.tokens)
        if name.endswith("_head"):
            return P(None, layout.vocab)
        return P(layout.vocab) if name.endswith("_bias") else P()

    return {name: spec(name) for name in names}


def _on_device(plan, layout: Layout, wanted: tuple[str, ...], operands: Operands):
    """This device's part: the sum over its tokens, and the gradients it can form."""
    dtype = jnp.result_type(jnp.float32, *operands.values())
    chunks, shared, join = linear.chunked(plan, operands)
    divergence = linear.divergence_of(plan, operands)
    sharpness = operands.get("sharpness")
    heads = {
        k: jnp.zeros(operands[k].shape, dtype)
        for k in wanted
        if k not in linear.PER_TOKEN
    }

    def live(carry, chunk):
        total, infinite, heads = carry
        chunk = linear.settled_states(plan, chunk)
        weights = chunk["weights"]
        given = weights if plan.weighted else None
        raw = linear.products({**shared, **chunk})
        logits, pull = {}, {}
        for s, z in raw.items():
            bias, cap = shared.get(f"{s}_bias"), shared.get(f"{s}_cap")
            # Wide, so that what a narrow bias gets from each chunk is not rounded.
            bias = jnp.zeros(z.shape[-1]) if bias is None else bias
            bias = bias.astype(z.dtype)

            def finish(z, bias, cap=cap):
                z = linear.finish(settled(given, z), bias, cap)
                return z if sharpness is None else z * sharpness.astype(z.dtype)

            logits[s], pull[s] = jax.vjp(finish, z, bias)
        rows = _normalized(divergence, logits["p"], logits["q"], layout.vocab)
        values = _terms(divergence, rows)
        found = {"weights": slope_in_weight(weights, values)}
        heads = dict(heads)
        for s in ("q", "p"):
            if not any(k[0] == s for k in wanted if k != "weights"):
                continue
            slope = _slope(divergence, rows, s, layout.vocab) * weights[:, None]
            slope, in_bias = pull[s](slope)
            hidden, head = chunk[f"{s}_hidden"], shared[f"{s}_head"]
            narrow = jnp.promote_types(hidden.dtype, head.dtype)
            product = partial(linear.slope_dot, slope, dtype=narrow)
            if f"{s}_hidden" in wanted:
                found[f"{s}_hidden"] = product(head, first=False)
            if f"{s}_head" in wanted:
                heads[f"{s}_head"] += product(hidden, first=True)
            if f"{s}_bias" in wanted:
                heads[f"{s}_bias"] += in_bias.astype(dtype)
        bound = weigh(weights, jnp.where(rows.infinite, jnp.inf, 0))
        total += jnp.sum(weigh(weights, values))
        rows = {k: found[k] for k in wanted if k in linear.PER_TOKEN}
        return (total, infinite + jnp.sum(bound), heads), rows

    zero = jnp.zeros((), dtype)
    carry, rows = linear.scan(plan, live, (zero, zero, heads), chunks)
    total, infinite, heads = carry
    rows = {k: join(x) for k, x in rows.items()}
    both = tuple(x for x in (layout.tokens, layout.vocab) if x is not None)
    total = lax.psum(total, both) if both else total
    if layout.tokens is not None:
        infinite, heads = lax.psum((infinite, heads), layout.tokens)
    if layout.vocab is not None:
        rows = lax.psum(rows, layout.vocab)
    return total + infinite, {**heads, **rows}


def _run(plan, layout: Layout, wanted: tuple[str, ...], operands: Operands):
    specs = _specs(layout, operands)
    return jax.shard_map(
        partial(_on_device, plan, layout, wanted),
        mesh=layout.mesh,
        in_specs=(specs,),
        out_specs=(P(), _specs(layout, wanted)),
        check_vma=False,
    )(operands)


@jax.custom_jvp
def _once(operands: Operands) -> Operands:
    """The operands, which may not be differentiated beyond this point."""
    return operands


@_once.defjvp
def _once_jvp(primals, tangents):
    # Not a stub: a second derivative would need the gradient kept per token.
    raise NotImplementedError(
        "the sharded linear divergence has first derivatives only; use "
        "linear_divergence for second ones"
    )


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def sharded_sum(plan, layout: Layout, operands: Operands) -> Float[Array, ""]:
    """``Σ w D`` over the mesh, replicated; first derivatives only.

    Operands as in `kljax.kernels.linear.fused`, both vocabularies of one length that
    the vocabulary's axis divides, the tokens likewise; ``sharpness`` is one over the
    temperature.
    """
    return _run(plan, layout, (), operands)[0]


@partial(sharded_sum.defjvp, symbolic_zeros=True)
def _sharded_sum_jvp(plan, layout, primals, tangents):
    (operands,), changes = primals, linear.moving(primals[0], tangents[0])
    fixed = [k for k in changes if k.startswith("leaf_") or k in _FIXED]
    if fixed:
        # Not a stub: silently taking them as constants would be a wrong gradient.
        raise NotImplementedError(
            "the sharded linear divergence has no derivative in the parameters of "
            "the divergence, the temperature or the soft-cap"
        )
    plan = linear.unskipped(plan, changes)
    wanted = tuple(sorted(changes))
    total, gradient = _run(plan, layout, wanted, _once(operands))
    tangent = jnp.zeros_like(total)
    for k, change in changes.items():
        tangent += jnp.sum(gradient[k].astype(total.dtype) * change.astype(total.dtype))
    return total, tangent


_FIXED = ("sharpness", "p_cap", "q_cap")


def padded(layout: Layout, operands: Operands) -> Operands:
    """Tokens of weight 0 and impossible outcomes, until the axes divide both."""
    found = dict(operands)
    n = operands["weights"].shape[0]
    short = -n % layout.size(layout.tokens)
    for k in operands.keys() & set(linear.PER_TOKEN):
        x = operands[k]
        found[k] = jnp.pad(x, [(0, short)] + [(0, 0)] * (x.ndim - 1))
    vocab = max(operands[f"{s}_head"].shape[1] for s in ("p", "q"))
    size = layout.size(layout.vocab)
    vocab = math.ceil(vocab / size) * size
    for s in ("p", "q"):
        head = operands[f"{s}_head"]
        short = vocab - head.shape[1]
        if short:
            bias = operands.get(f"{s}_bias")
            bias = jnp.zeros(head.shape[1], jnp.float32) if bias is None else bias
            found[f"{s}_head"] = jnp.pad(head, ((0, 0), (0, short)))
            # No `pad`: partitioned, one by -inf stands in for its tangent's by 0.
            lacking = jnp.full(short, -jnp.inf, bias.dtype)
            found[f"{s}_bias"] = jnp.concatenate([bias, lacking])
    return found
