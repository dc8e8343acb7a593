"""A NaN in any array of any public distance shows in the value and in the gradient."""

import importlib
import inspect
import pkgutil
from functools import partial

import fused
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kljax.divergences as kd
from kljax.divergences import estimators, gaussian, samples, scores, transport

RNG = np.random.default_rng(0)
B, V, D = 2, 5, 3


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def log_normal(*shape):
    return jax.nn.log_softmax(normal(*shape))


def positive(*shape):
    return jnp.exp(normal(*shape))


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
WEIGHTS = {"weights": positive(B)}
LOG_PROBS = {"log_p": log_normal(V), "log_q": log_normal(V)}
POINTS = {"x_p": normal(4, D), "x_q": normal(5, D)}
LOG_WEIGHTS = {"log_weights_p": normal(4), "log_weights_q": normal(5)}
CLOUD = {"query": normal(4, D), "data": normal(5, D), "log_weights": normal(5)}
BANDWIDTH = {"bandwidth": jnp.float32(1.0)}
MEANS = {"mean_p": normal(D), "mean_q": normal(D)}
FULL = {**MEANS, "cov_p": 2 * jnp.eye(D), "cov_q": jnp.eye(D)}
DIAGONAL = {**MEANS, "var_p": positive(D), "var_q": positive(D)}
ORDER = {"alpha": jnp.float32(0.5)}
COUPLED = {
    "a": jnp.full(4, 0.25),
    "b": jnp.full(4, 0.25),
    "cost": positive(4, 4),
    "epsilon": jnp.float32(1.0),
}
SCORES = {"score_p": normal(4, D), "score_q": normal(4, D)}
LEVELS = {"score_p": normal(3, 4, D), "score_q": normal(3, 4, D)}
SIGMA = {"sigma": jnp.array([1.0, 0.5, 0.1])}
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
        partial(
            fused.divergence, JS, labels=labels, label_weight=0.5, temperature=(1.5, 2)
        ),
        {**P, **Q, **WEIGHTS},
    ),
    "token_divergence, of heads": (
        partial(fused.divergence, JS),
        {**P, **Q, **WEIGHTS},
    ),
    "token_divergence, of heads on a mesh": (
        partial(fused.divergence, JS, **AXES),
        {**P, **Q, **WEIGHTS},
    ),
    "token_divergence, of logits on a mesh": (
        lambda p_logits, q_logits, **options: kd.token_divergence(
            kd.Logits(p_logits), kd.Logits(q_logits), JS, **AXES, **options
        ),
        {**LOGITS, "temperature": jnp.float32(2.0), **WEIGHTS},
    ),
    "token_divergence, lists": (
        partial(fused.topk, JS, ids=ids),
        {**LISTED, **WEIGHTS},
    ),
    "token_divergence, lists alone": (
        partial(fused.restricted, JS, ids=ids),
        {**LISTED, **WEIGHTS},
    ),
    "token_divergence, lists and logits": (
        partial(fused.dense_topk, ids=ids, name=JS),
        {"log_p": log_normal(B, V)[:, :2], "q_logits": normal(B, V)},
    ),
    "label_cross_entropy": (
        partial(fused.cross_entropy, labels),
        {**Q, **WEIGHTS},
    ),
    "label_cross_entropy, of logits": (
        partial(kd.label_cross_entropy, labels),
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
        f"gaussian.{name}{suffix}": (
            getattr(gaussian, name + suffix),
            {**arrays, **(ORDER if name == "renyi" else {})},
        )
        for name in (
            "bhattacharyya",
            "cauchy_schwarz",
            "kl",
            "renyi",
            "squared_hellinger",
            "squared_wasserstein2",
        )
        for suffix, arrays in (("", FULL), ("_diag", DIAGONAL))
    },
    "samples.cauchy_schwarz": (
        samples.cauchy_schwarz,
        {**POINTS, **BANDWIDTH, **LOG_WEIGHTS},
    ),
    "samples.counts_kl": (
        samples.counts_kl,
        {"counts_p": positive(V), "counts_q": positive(V)},
    ),
    "samples.donsker_varadhan": (
        samples.donsker_varadhan,
        {"critic_p": normal(4), "critic_q": normal(4)},
    ),
    "samples.histogram_kl": (
        at(samples.histogram_kl, edges=jnp.linspace(-3, 3, 4), pseudo_count=1.0),
        {"x_p": normal(20), "x_q": normal(20)},
    ),
    "samples.kde_log_density": (samples.kde_log_density, {**CLOUD, **BANDWIDTH}),
    "samples.kernel_mean": (samples.kernel_mean, {**CLOUD, **BANDWIDTH}),
    "samples.knn_kl": (at(samples.knn_kl, k=1), POINTS),
    "samples.mmd": (samples.mmd, {**POINTS, **BANDWIDTH}),
    "samples.variational_bound": (
        named(samples.variational_bound),
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
# Take no arrays, or return what another row of the table looks at.
OTHERS = {
    *("generator", "get", "names", "categorical.checked", "sharded.check_axes"),
    *("categorical.floating", "dense_logits", "top_outcomes"),
    *("sides.check_side", "sides.vocabulary", *kd.names()),
}
# Counted, stopped or linear: the gradient is a constant by definition.
FLAT = {
    "samples.donsker_varadhan": {"critic_p"},
    "scores.integral_divergence": {"rates"},
    "samples.histogram_kl": {"x_p", "x_q"},
    "scores.score_from_denoiser": {"denoised", "noisy"},
    "scores.surrogate": {"samples", "score_p", "score_q", "log_ratio"},
    "scores.pairing": {"samples", "direction", "weight"},
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


def test_every_public_function_has_a_row():
    homes = {}
    for function, name in public_functions():
        homes.setdefault(function, name)
    assert set(homes.values()) - OTHERS == {row.partition(",")[0] for row in TABLE}


@pytest.mark.parametrize("name", TABLE)
def test_nan_shows(name):
    function, arrays = TABLE[name]

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(arrays):
        def total(arrays):
            leaves = map(jnp.asarray, jax.tree.leaves(function(**arrays)))
            floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
            return sum(map(jnp.sum, floats))

        return jax.value_and_grad(total)(arrays)

    value, gradients = run(arrays)
    assert np.isfinite(value)
    for argument, array in arrays.items():
        spoiled = jnp.ravel(array).at[0].set(jnp.nan).reshape(array.shape)
        value, gradients = run({**arrays, argument: spoiled})
        assert np.isnan(value), argument
        if argument not in FLAT.get(name, ()):
            assert np.isnan(gradients[argument]).any(), argument
