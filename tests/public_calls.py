"""A call of every public function of `kljax.divergences`, for the tests of all."""

import importlib
import inspect
import pkgutil
from functools import partial

import fused
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

import kljax.divergences as kd
from kljax.divergences import (
    bounds,
    counts,
    estimators,
    gaussian,
    paired,
    samples,
    scores,
    transport,
)

RNG = np.random.default_rng(0)
B, V, D = 2, 5, 3


def normal(*shape):
    return jnp.asarray(np.float32(RNG.normal(size=shape)))


def log_normal(*shape):
    return jnp.asarray(special.log_softmax(np.asarray(normal(*shape)), axis=-1))


def positive(*shape):
    return jnp.asarray(np.exp(normal(*shape)))


MESH = jax.make_mesh(
    (1, 1), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2
)
AXES = {"mesh": MESH, "token_axis": "data", "vocab_axis": "model"}
LOGITS = {
    "p_logits": normal(B, V),
    "q_logits": normal(B, V),
    "temperature": positive(B),
}
Q = {"q_hidden": normal(B, D), "q_head": normal(D, V), "q_bias": normal(V)}
P = {"p_hidden": normal(B, D), "p_head": normal(D, V), "p_bias": normal(V)}
LISTED = {"log_p_topk": log_normal(B, V)[:, :2], **Q}
HEAD = {
    "states": normal(B, D),
    "head": normal(D, V),
    "bias": normal(V),
    "soft_cap": jnp.float32(5.0),
}
WEIGHTS = {"weights": positive(B)}
LOG_PROBS = {"log_p": log_normal(V), "log_q": log_normal(V)}
POINTS = {"x_p": normal(4, D), "x_q": normal(5, D)}
PAIRS = {"x": normal(4, D), "log_weights": normal(4)}
WIDTHS = {"width_x": jnp.float32(1.0), "width_y": jnp.float32(0.7)}
LOG_WEIGHTS = {"log_weights_p": normal(4), "log_weights_q": normal(5)}
CLOUD = {"query": normal(4, D), "data": normal(5, D), "log_weights": normal(5)}
BANDWIDTH = {"bandwidth": jnp.float32(1.0)}
FULL = {
    "p": gaussian.Gaussian(normal(D), 2 * jnp.eye(D)),
    "q": gaussian.Gaussian(normal(D), jnp.eye(D)),
}
DIAGONAL = {
    "p": gaussian.DiagonalGaussian(normal(D), positive(D)),
    "q": gaussian.DiagonalGaussian(normal(D), positive(D)),
}
ORDER = {"alpha": jnp.float32(0.5)}
COUPLED = {
    "a": jnp.full(4, 0.25),
    "b": jnp.full(4, 0.25),
    "cost": positive(4, 4),
    "epsilon": jnp.float32(1.0),
}
SCORES = {"score_p": normal(4, D), "score_q": normal(4, D)}
LEVELS = {"score_p": normal(3, 4, D), "score_q": normal(3, 4, D)}
SIGMA = {"sigma": jnp.array([0.1, 0.5, 1.0])}
JS = "jensen_shannon"
ids, labels = jnp.array([[0, 1], [2, 3]]), jnp.array([0, 4])


def at(function, *positional, **options):
    """A function of keyword arguments alone."""

    def call(**arrays):
        bound = inspect.signature(function).bind_partial(*positional, **options)
        return function(**{**bound.arguments, **arrays})

    return call


def named(function, name="jensen_shannon", **options):
    return at(function, divergence=name, **options)


# Each: the function, and the arrays that it takes; all floating, all in turn NaN.
TABLE = {
    "divergence": (named(kd.divergence), LOGITS),
    "divergence_sharded": (
        named(kd.divergence_sharded, **AXES),
        {**LOGITS, "temperature": jnp.float32(2.0)},
    ),
    "renyi": (kd.renyi, {**LOGITS, **ORDER}),
    "cauchy_schwarz": (kd.cauchy_schwarz, LOGITS),
    "cross_entropy": (kd.cross_entropy, LOGITS),
    "entropy": (kd.entropy, {"logits": normal(B, V)}),
    "token_divergence": (
        lambda states, head, bias, soft_cap, **options: kd.token_divergence(
            kd.Hidden(normal(B, D), normal(D, V)),
            kd.Hidden(states, head, bias, soft_cap),
            JS,
            labels=labels,
            label_weight=0.5,
            **options,
        ),
        {**HEAD, **WEIGHTS, "temperature": jnp.float32(2.0)},
    ),
    "label_cross_entropy": (
        at(kd.label_cross_entropy, labels=labels, reduction="mean"),
        {"q_logits": normal(B, V), **WEIGHTS},
    ),
    **{
        f"estimators.{name}": (getattr(estimators, name), LOG_PROBS)
        for name in ("k1", "k2", "k3", "forward_k1", "forward_k3")
    },
    "estimators.f_divergence": (
        named(estimators.f_divergence),
        {**LOG_PROBS, "log_behavior": log_normal(V)},
    ),
    "estimators.effective_sample_size": (
        estimators.effective_sample_size,
        {"log_weights": normal(V)},
    ),
    **{
        f"gaussian.{name}": (
            getattr(gaussian, name),
            {**FULL, **(ORDER if name == "renyi" else {})},
        )
        for name in (
            "bhattacharyya",
            "cauchy_schwarz",
            "kl",
            "renyi",
            "squared_hellinger",
            "squared_wasserstein2",
        )
    },
    "samples.cauchy_schwarz": (
        samples.cauchy_schwarz,
        {**POINTS, **BANDWIDTH, **LOG_WEIGHTS},
    ),
    "counts.kl": (
        counts.kl,
        {"counts_p": positive(V), "counts_q": positive(V)},
    ),
    "bounds.donsker_varadhan": (
        bounds.donsker_varadhan,
        {"critic_p": normal(4), "critic_q": normal(4)},
    ),
    "samples.histogram_kl": (
        at(samples.histogram_kl, edges=jnp.linspace(-3, 3, 4), pseudo_count=1.0),
        {"x_p": normal(20), "x_q": normal(20)},
    ),
    "samples.kde_log_density": (samples.kde_log_density, {**CLOUD, **BANDWIDTH}),
    "samples.kernel_mean": (samples.kernel_mean, {**CLOUD, **BANDWIDTH}),
    "samples.knn_kl": (at(samples.knn_kl, k=1), POINTS),
    "samples.median_distance": (samples.median_distance, {"points": normal(4, D)}),
    **{
        f"paired.{name}": (
            getattr(paired, name),
            {**PAIRS, **WIDTHS, **{y: normal(4, 2) for y in targets}},
        )
        for name, targets in (
            ("cauchy_schwarz_information", ("y",)),
            ("conditional_cauchy_schwarz", ("y_p", "y_q")),
            ("hsic", ("y",)),
        )
    },
    "samples.mmd": (samples.mmd, {**POINTS, **BANDWIDTH}),
    "bounds.variational": (
        named(bounds.variational),
        {"critic_p": normal(4), "critic_q": normal(4)},
    ),
    "scores.integral_divergence": (
        scores.integral_divergence,
        {"rates": positive(3, 4), **SIGMA},
    ),
    "scores.integral_kl": (scores.integral_kl, {**LEVELS, **SIGMA}),
    "scores.pairing": (
        scores.pairing,
        {"samples": normal(4, D), "direction": normal(4, D), "weight": positive(4)},
    ),
    "scores.score_divergence": (
        named(scores.score_divergence),
        {**SCORES, "log_ratio": normal(4)},
    ),
    "scores.score_from_denoiser": (
        scores.score_from_denoiser,
        {"denoised": normal(4, D), "noisy": normal(4, D), "sigma": positive(4)},
    ),
    "scores.surrogate": (
        named(scores.surrogate),
        {"samples": normal(4, D), **SCORES, "log_ratio": normal(4)},
    ),
    "transport.sinkhorn": (at(transport.sinkhorn, iterations=5), COUPLED),
    "transport.sinkhorn_divergence": (
        at(transport.sinkhorn_divergence, iterations=5),
        {**POINTS, "epsilon": jnp.float32(1.0)},
    ),
    "transport.transport_cost": (at(transport.transport_cost, iterations=5), COUPLED),
    "transport.transport_plan": (at(transport.transport_plan, iterations=5), COUPLED),
}
# Of arguments of another kind.
VARIANTS = {
    f"{name} (diagonal)": (function, {**arrays, **DIAGONAL})
    for name, (function, arrays) in TABLE.items()
    if name.startswith("gaussian.")
}
VARIANTS |= {
    "token_divergence (heads)": (partial(fused.divergence, JS), {**P, **Q, **WEIGHTS}),
    "token_divergence (heads on a mesh)": (
        partial(fused.divergence, JS, **AXES),
        {**P, **Q, **WEIGHTS},
    ),
    "token_divergence (logits on a mesh)": (
        lambda p_logits, q_logits, **options: kd.token_divergence(
            kd.Logits(p_logits), kd.Logits(q_logits), JS, **AXES, **options
        ),
        {**LOGITS, "temperature": jnp.float32(2.0), **WEIGHTS},
    ),
    "token_divergence (lists)": (
        partial(fused.topk, JS, ids=ids),
        {**LISTED, **WEIGHTS},
    ),
    "token_divergence (lists alone)": (
        partial(fused.restricted, JS, ids=ids),
        {**LISTED, **WEIGHTS},
    ),
    "token_divergence (lists and logits)": (
        partial(fused.dense_topk, ids=ids, name=JS),
        {"log_p": log_normal(B, V)[:, :2], "q_logits": normal(B, V)},
    ),
    "label_cross_entropy (heads)": (
        partial(fused.cross_entropy, labels),
        {**Q, **WEIGHTS},
    ),
}
# `divergence` by another name, and leading axes that broadcast: for types alone.
TYPED = {
    **{name: (getattr(kd, name), LOGITS) for name in kd.names()},
    "gaussian.renyi": (
        gaussian.renyi,
        {
            "p": gaussian.Gaussian(normal(3, 1, D), jnp.eye(D)),
            "q": gaussian.DiagonalGaussian(normal(D), positive(4, D)),
            "alpha": positive(4),
        },
    ),
    "counts.kl": (
        counts.kl,
        {"counts_p": positive(3, 1, V), "counts_q": positive(4, V)},
    ),
    "transport.sinkhorn": (
        at(transport.sinkhorn, iterations=5),
        {**COUPLED, "b": jnp.full((2, 4), 0.25), "epsilon": positive(2)},
    ),
    "transport.sinkhorn_divergence": (
        at(transport.sinkhorn_divergence, iterations=5),
        {"x_p": normal(2, 4, D), "x_q": normal(5, D), "epsilon": positive(3, 1)},
    ),
}
# Take no arrays, or return what another row of the table looks at.
OTHERS = {
    *kd.names(),
    "from_generator",
    "generator",
    "get",
    "names",
    "categorical.checked",
    "dense_logits",
    "estimate",
    "token_arguments.check_side",
    "token_arguments.is_number",
    "top_outcomes",
    "sharded.check_axes",
}


def public_functions():
    rooms = [info.name for info in pkgutil.iter_modules(kd.__path__)]
    for room in ("", *(room for room in rooms if not room.startswith("_"))):
        module = importlib.import_module(f"{kd.__name__}.{room}".rstrip("."))
        found = getattr(module, "__all__", None) or vars(module)
        for name in found:
            value = getattr(module, name)
            if name.startswith("_") or not inspect.isfunction(value):
                continue
            if not room or value.__module__ == module.__name__:
                yield value, f"{room}.{name}".lstrip(".")
