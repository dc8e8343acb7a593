"""Every bottleneck on one encoder, and the paper's estimators against closed forms."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import kit
from kljax.data.batching import passes
from kljax.data.regression import Regression, RegressionSource
from kljax.divergences import gaussian, paired, samples
from kljax.divergences.gaussian import Gaussian
from kljax.models.dense import MLP
from kljax.models.functional import pure
from kljax.objectives.attacks import fgsm, pgd
from kljax.objectives.bottleneck import (
    Code,
    Widths,
    bottleneck_loss,
    coded,
    information_plane,
)
from kljax.training import stacked
from kljax.training.descent import Selected, descended, selected


def each(knob: str, *values: float) -> tuple[dict[str, float], ...]:
    return tuple({knob: value} for value in values)


class Method(NamedTuple):
    """A fit and a rate, and three settings, each tried with every learning rate."""

    loss: Mapping[str, Any]
    settings: tuple[dict[str, float], ...]
    wide: bool = False
    """Whether kernels are as wide as the root of the dimension (Ma et al.), not 1."""


CS = {"fit": "conditional_cs"}
METHODS = {
    "squared error": Method({}, each("decay", 0.0, 1e-2, 1e-1)),
    "VIB": Method({"rate": "vib"}, each("beta", 1e-4, 1e-3, 1e-2)),
    "NIB": Method({"rate": "nib"}, each("beta", 1e-3, 1e-2, 1e-1)),
    "square-NIB": Method({"rate": "nib_squared"}, each("beta", 1e-4, 1e-3, 1e-2)),
    "exp-NIB": Method({"rate": "nib_exponential"}, each("beta", 1e-4, 1e-3, 1e-2)),
    "HSIC": Method({"rate": "hsic"}, each("beta", 1e-1, 1.0, 10.0), wide=True),
    # The width of inputs matters more than beta: 0.5 is nearer to a pointwise loss.
    "CS-IB": Method(
        CS | {"rate": "cs"},
        ({"beta": 1e-2}, {"beta": 1e-1}, {"beta": 1e-2, "x": 0.5}),
    ),
    "CS alone": Method(CS, each("x", 0.5, 1.0, 2.0)),
    "absolute error": Method({"fit": "absolute"}, each("decay", 0.0, 1e-2, 1e-1)),
    "correntropy": Method({"fit": "correntropy"}, each("y", 0.5, 1.0, 2.0)),
}
"""Errors have targets of deviation 1; the size of a rate decides on its betas."""
OTHERS = ("VIB", "NIB", "square-NIB", "exp-NIB", "HSIC")
NOISY = ("vib", "nib", "nib_squared", "nib_exponential")
OWN = {"beta": 0.0, "decay": 0.0, "x": 1.0, "y": 1.0, "t": 1.0}
"""Settings of a member, where its method does not tune them: beta, weight decay, widths
of the kernels of inputs, targets and codes (1 in the paper's code)."""
EPSILONS = (0.1, 0.3, 0.5)
FGSM = {e: f"FGSM {e:g}" for e in EPSILONS}
PLANE = {"VIB": 1e-4, "NIB": 1e-3, "HSIC": 1e-1, "CS-IB": 1e-3}
"""Of which methods betas are swept, and the smallest one; each next is ten times it."""
CORRELATIONS = (0.0, 0.3, 0.6, 0.9)


@dataclasses.dataclass(frozen=True)
class Task:
    data: RegressionSource
    """An empty source: the task is left out."""
    epochs: int = 15
    wrong: float = 0.0
    """Share of the training targets that are wrong."""


@dataclasses.dataclass(frozen=True)
class Training:
    rates: tuple[float, ...] = (3e-3, 1e-2)
    tuning: int = 2
    """Seeds on which learning rates and the methods' own settings are chosen."""
    hidden: tuple[int, ...] = (64, 64)
    code: int = 16
    batch: int = 128


class Programs(NamedTuple):
    """Three compiled functions of stacked members; the outer ones serve all methods."""

    start: Callable
    train: Callable
    judge: Callable


@functools.cache
def networks(config: Training, inputs: int) -> tuple[Any, Any, Callable]:
    """Encoder, decoder, and the parameters of both by seed."""
    sizes = (inputs, *config.hidden, 2 * config.code)
    encode, first = pure(lambda rngs: MLP(sizes, rngs=rngs))
    decode, last = pure(lambda rngs: MLP((config.code, config.hidden[0], 1), rngs=rngs))

    def start(seed: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(jax.random.key(seed))
        return {"encoder": first(keys[0]), "decoder": last(keys[1])}

    return encode, decode, jax.jit(jax.vmap(start))


@functools.cache
def programs(name: str, config: Training, epochs: int, inputs: int) -> Programs:
    method = METHODS[name]
    encode, decode, start = networks(config, inputs)
    noisy = method.loss.get("rate") in NOISY

    def coding(params: Any, x: jax.Array, key: Any = None) -> Code:
        return code_of(encode, decode, noisy, params, x, key)

    def train(params: Any, own: dict[str, Any], orders: jax.Array) -> Selected:
        def loss(params: Any, batch: dict[str, Any]) -> jax.Array:
            x, y = (own["train"][k][batch["rows"]] for k in ("x", "y"))
            widths = Widths(own["x"], own["y"], own["t"])
            given: Any = {"beta": own["beta"], "widths": widths}
            code = coding(params, x, batch["key"])
            return bottleneck_loss(x, y, code, **given, **method.loss)[0].mean()

        def batches(n: jax.Array) -> dict[str, Any]:
            key = jax.random.fold_in(jax.random.key(own["seed"]), n)
            return {"rows": orders[n], "key": jax.random.split(key, orders.shape[1])}

        def error(params: Any) -> jax.Array:
            gap = coding(params, own["val"]["x"]).prediction - own["val"]["y"]
            return jnp.sqrt(jnp.mean(gap**2))

        rate = optax.cosine_decay_schedule(
            own["rate"], orders.shape[0] * orders.shape[1]
        )
        rule = optax.flatten(optax.adamw(rate, weight_decay=own["decay"]))
        return selected(loss, params, rule, batches, error, rounds=epochs)

    return Programs(start, jax.jit(jax.vmap(train)), judge(noisy, config, inputs))


def code_of(encode, decode, noisy: bool, params: Any, x: jax.Array, key: Any) -> Code:
    mean, log_var = jnp.split(encode(params["encoder"], x), 2, axis=1)
    spread = log_var - 4 if noisy else None  # noise is small at first
    return coded(mean, spread, lambda t: decode(params["decoder"], t), key=key)


@functools.cache
def judge(noisy: bool, config: Training, inputs: int) -> Callable:
    """Errors on test rows, as they are and moved, and the information plane."""
    encode, decode, _ = networks(config, inputs)

    def one(params: Any, own: dict[str, Any]) -> dict[str, jax.Array]:
        coding = lambda x, key=None: code_of(encode, decode, noisy, params, x, key)  # noqa: E731
        squares = lambda x, y: jnp.sum((coding(x).prediction - y) ** 2, axis=1)  # noqa: E731
        x, y = (own["test"][k] for k in ("x", "y"))
        ask = lambda x: squares(x, y)  # noqa: E731
        error = lambda x: jnp.sqrt(ask(x).mean())  # noqa: E731
        moved = jax.lax.map(lambda e: error(fgsm(ask, x, e)), jnp.array(EPSILONS))
        worst = pgd(ask, x, 0.3, step=0.06, iterations=10)
        few = slice(0, min(256, len(x)))
        code = coding(x[few], jax.random.key(own["seed"]))
        sizes = samples.median_distance(x[few]), samples.median_distance(code.t)
        planes = {
            key: information_plane(x[few], y[few], code, widths=w, normalized=True)
            for key, w in (
                ("complexity", Widths()),
                ("own units", Widths(sizes[0], 1.0, sizes[1])),
            )
        }
        return {
            "RMSE": error(x),
            "training": jnp.sqrt(squares(*own["train"].values()).mean()),
            **dict(zip(FGSM.values(), moved)),
            "PGD 0.3": error(worst),
            **{name: plane.complexity for name, plane in planes.items()},
            "relevance": planes["own units"].relevance / math.log(2),
            "predictions": coding(x).prediction[:, 0],
        }

    return jax.jit(jax.vmap(one))


def members(
    config: Training, data: Regression, task: Task, name: str, own: list, judged: bool
) -> dict[str, Any]:
    """The least error on validation rows of every member, and what it scored; `own` are
    pairs of a seed and its settings."""
    every, orders, usual = [], [], dict(OWN)
    if METHODS[name].wide:
        usual |= {"x": math.sqrt(data.x.shape[1]), "t": math.sqrt(config.code)}
    for seed, settings in own:
        parts = data.drawn(seed, wrong=task.wrong)
        every.append(parts | usual | settings | {"seed": seed})
        count = len(parts["train"]["y"])
        rows = passes(count, config.batch, seed)
        steps = task.epochs * (count // min(config.batch, count))
        orders.append([rows(n) for n in range(steps)])
    start, train, score = programs(name, config, task.epochs, data.x.shape[1])
    stack = stacked(every)
    shape = len(own), task.epochs, -1, len(orders[0][0])
    found = train(
        start(stack["seed"]), stack, np.array(orders, np.int32).reshape(shape)
    )
    chosen = {"val": found.scores.min(axis=1), "epoch": found.scores.argmin(axis=1)}
    return jax.device_get(chosen | (score(found.params, stack) if judged else {}))


def trained(study: kit.Study, label: str, task: Task) -> dict[str, dict[str, Any]]:
    """Each method's tuned setting, and what its seeds scored with it."""
    config, found = study.config.training, {}
    data = Regression.load(task.data, fetch=study.config.fetch)
    study.pin(**{f"data/{label}": data.sha256})
    work = functools.partial(members, config, data, task)
    spare = [10_000 + study.seeds[0] + i for i in range(config.tuning)]
    for name in study.config.methods:
        tried = kit.grid(config.rates, METHODS[name].settings)
        settings = [{"rate": rate} | own for rate, own in tried]
        own = [(seed, one) for one in settings for seed in spare]
        tuned = study.once(
            ("tune", label, name), functools.partial(work, name, own, False)
        )
        means = tuned["val"].reshape(len(settings), -1).mean(axis=1)
        best = settings[int(np.nanargmin(means))]
        own = [(seed, best) for seed in study.seeds]
        scored = study.once(
            ("score", label, name), functools.partial(work, name, own, True)
        )
        found[name] = {"setting": best, "tuned": tuned, "scored": scored}
    return found


def swept(study: kit.Study, label: str, task: Task, found: dict) -> dict[str, Any]:
    """Where bottlenecks stand in the information plane, at six betas; two seeds. A run
    that decides nothing has three of them, as many as settings: nothing to compile."""
    count, seeds = (6, 2) if study.decides else (3, 1)
    data = Regression.load(task.data, fetch=study.config.fetch)
    work = functools.partial(members, study.config.training, data, task)
    planes = {}
    for name in (name for name in PLANE if name in found):
        betas = (0.0, *(PLANE[name] * 10.0**i for i in range(count - 1)))
        setting = found[name]["setting"]
        own = [
            (s, setting | {"beta": b})
            for b in betas
            for s in range(20_000, 20_000 + seeds)
        ]
        scored = study.once(
            ("plane", label, name), functools.partial(work, name, own, True)
        )
        keys = ("relevance", "complexity", "own units")
        means = {k: scored[k].reshape(len(betas), -1).mean(axis=1) for k in keys}
        planes[name] = means | {"betas": np.array(betas)}
    return planes


def estimated(config: Any, seed: int) -> dict[str, float]:
    """The estimators against closed forms, of one seed."""
    rng, found, count = np.random.default_rng(seed), {}, config.points
    mean, root = np.array([1.0, 0.5]), np.array([[1.2, 0.0], [0.3, 0.8]])
    x, y = rng.normal(size=(2, count, 2)).astype(np.float32)
    for s in (1.0, 0.3):
        more = s**2 / 2 * np.eye(2)
        p, q = (
            Gaussian(0 * mean, np.eye(2) + more),
            Gaussian(mean, root @ root.T + more),
        )
        u = _unbiased(x, np.float32(y @ root.T + mean), s / math.sqrt(2))
        found[f"s={s:g}"] = abs(float(u - gaussian.cauchy_schwarz(p, q)))
    a, b = rng.normal(size=(2, count // 2, 1)).astype(np.float32)
    for r in CORRELATIONS:
        covs = [np.array([[1.125, c], [c, 1.125]]) for c in (r, 0.0)]
        closed = gaussian.cauchy_schwarz(*(Gaussian(0 * mean, c) for c in covs))
        joint = r * a + math.sqrt(1 - r**2) * b
        found[f"r={r:g}"] = abs(float(_information(a, joint, 0.5, 0.5) - closed))
    x, y, z = (np.float32(rng.normal(size=(config.batches, 8, d))) for d in (2, 1, 1))
    for name in ("paper", "repo"):
        found[name] = float(_conditional(x, y, y + 0.1 * z, name).min())
    roots = rng.normal(size=(2, 20_000, 2, 2)) * rng.lognormal(size=(2, 20_000, 1, 1))
    covs = roots @ roots.swapaxes(-1, -2) + 0.01 * np.eye(2)
    with jax.enable_x64(True):
        p, q = map(Gaussian, 3 * rng.normal(size=(2, 20_000, 2)), covs)
        least = np.minimum(gaussian.kl(p, q), gaussian.kl(q, p))
        whole = np.asarray(gaussian.cauchy_schwarz(p, q))
    return found | {
        "half": int((whole / 2 > least).sum()),
        "whole": int((whole > least).sum()),
    }


_unbiased = jax.jit(functools.partial(samples.cauchy_schwarz, unbiased=True))
_information = jax.jit(paired.cauchy_schwarz_information)


@functools.partial(jax.jit, static_argnames="estimator")
def _conditional(x: Any, y: Any, z: Any, estimator: str) -> jax.Array:
    of = paired.conditional_cauchy_schwarz
    return jax.vmap(lambda a, b, c: of(a, b, c, 1.0, 1.0, estimator=estimator))(x, y, z)


@functools.partial(jax.jit, static_argnames="steps")
def _moved(target: jax.Array, x: jax.Array, steps: tuple[int, ...]) -> tuple:
    of = lambda x, key=None: samples.cauchy_schwarz(target, x, math.sqrt(0.5))  # noqa: E731
    ends = descended(of, x, optax.sgd(200.0), steps, key=jax.random.key(0))
    return ends[-1], of(ends[-1])


def modes(config: Any, seed: int) -> dict[str, Any]:
    """Free points that descend the divergence to two Gaussians, and the smaller share
    of them on one side."""
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(400, 2)) + np.repeat([[-4.0], [4.0]], 200, axis=0)
    target, start = np.float32(target), np.float32(rng.normal(size=(400, 2)))
    end, value = _moved(target, start, config.steps)
    share = float((np.asarray(end).sum(axis=1) > 0).mean())
    points = {"target": target, "start": start, "end": end}
    return {"D_CS": float(value), "share": min(share, 1 - share), "points": points}
