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
from kljax.training.descent import descended, selected


class Method(NamedTuple):
    """A fit and a rate, and what is tuned beside the learning rate."""

    loss: Mapping[str, str]
    knob: str = "beta"
    values: tuple[float, ...] = (1e-3, 1e-2, 1e-1)


CS = {"fit": "conditional_cs"}
METHODS = {
    "squared error": Method({}, "decay", (0.0, 1e-2, 1e-1)),
    "VIB": Method({"rate": "vib"}, values=(1e-4, 1e-3, 1e-2)),
    "NIB": Method({"rate": "nib"}),
    "square-NIB": Method({"rate": "nib_squared"}, values=(1e-4, 1e-3, 1e-2)),
    "exp-NIB": Method({"rate": "nib_exponential"}, values=(1e-4, 1e-3, 1e-2)),
    "HSIC": Method({"rate": "hsic"}, values=(1e-2, 1e-1, 1.0)),
    "CS-IB": Method(CS | {"rate": "cs"}),
    "CS alone": Method(CS, "x", (0.5, 1.0, 2.0)),
    "absolute error": Method({"fit": "absolute"}, "decay", (0.0, 1e-2, 1e-1)),
    "correntropy": Method({"fit": "correntropy"}, "y", (0.5, 1.0, 2.0)),
}
"""Errors have targets of deviation 1; the size of a rate decides on its betas."""
NOISY = ("vib", "nib", "nib_squared", "nib_exponential")
OWN = {"beta": 0.0, "decay": 0.0, "x": 1.0, "y": 1.0}
"""Settings of a member, where its method does not tune them: beta, weight decay, widths
of the kernels of inputs and targets. That of codes is 1."""
EPSILONS = (0.1, 0.3, 0.5)
FGSM = {e: f"FGSM {e:g}" for e in EPSILONS}
CORRELATIONS = (0.0, 0.3, 0.6, 0.9)
BETAS = (0.0, 1e-2, 3e-2, 0.1, 0.3, 1.0)


@dataclasses.dataclass(frozen=True)
class Task:
    data: RegressionSource
    """An empty source: the task is left out."""
    epochs: int = 25
    wrong: float = 0.0
    """Share of the training targets that are wrong."""


@dataclasses.dataclass(frozen=True)
class Training:
    rates: tuple[float, ...] = (1e-3, 3e-3)
    tuning: int = 2
    """Seeds on which learning rates and the methods' own settings are chosen."""
    hidden: tuple[int, ...] = (64, 64)
    code: int = 16
    batch: int = 128


@functools.cache
def trainer(name: str, config: Training, epochs: int, inputs: int) -> Callable:
    """A jitted function of stacked members (`drawn`, with settings): what they scored."""
    method, sizes = METHODS[name], (inputs, *config.hidden, 2 * config.code)
    encode, first = pure(lambda rngs: MLP(sizes, rngs=rngs))
    decode, last = pure(lambda rngs: MLP((config.code, config.hidden[0], 1), rngs=rngs))
    noisy = method.loss.get("rate") in NOISY

    def coding(params: Any, x: jax.Array, key: Any = None) -> Code:
        mean, log_var = jnp.split(encode(params["encoder"], x), 2, axis=1)
        spread = log_var - 4 if noisy else None  # noise is small at first
        return coded(mean, spread, lambda t: decode(params["decoder"], t), key=key)

    def loss(params: Any, batch: dict[str, Any], own: dict[str, Any]) -> jax.Array:
        code = coding(params, batch["x"], batch["key"])
        given: Any = {"beta": own["beta"], "widths": Widths(own["x"], own["y"])}
        return bottleneck_loss(
            batch["x"], batch["y"], code, **given, **method.loss
        )[0].mean()

    def squares(params: Any, part: dict[str, jax.Array], x: Any = None) -> jax.Array:
        x = part["x"] if x is None else x
        return ((coding(params, x).prediction - part["y"]) ** 2)[:, 0]

    def one(own: dict[str, Any]) -> dict[str, jax.Array]:
        keys = jax.random.split(jax.random.key(own["seed"]), 3)
        params = {"encoder": first(keys[0]), "decoder": last(keys[1])}
        count = own["train"]["y"].shape[0]
        size = min(config.batch, count)
        steps = count // size

        def batches(n: jax.Array) -> dict[str, Any]:
            shuffle, noise = jax.random.split(jax.random.fold_in(keys[2], n))
            order = jax.random.permutation(shuffle, count)[: steps * size]
            chosen = jax.tree.map(lambda a: a[order.reshape(steps, size)], own["train"])
            return chosen | {"key": jax.random.split(noise, steps)}

        rate = optax.cosine_decay_schedule(own["rate"], epochs * steps)
        error = lambda p, part: jnp.sqrt(squares(p, own[part]).mean())  # noqa: E731
        found = selected(
            lambda p, batch: loss(p, batch, own), params,
            optax.adamw(rate, weight_decay=own["decay"]), batches,
            lambda p: error(p, "val"), rounds=epochs,
        )  # fmt: skip
        test, best = own["test"], found.params
        ask = lambda x: squares(best, test, x)  # noqa: E731
        moved = {FGSM[e]: fgsm(ask, test["x"], e) for e in EPSILONS}
        moved["PGD 0.3"] = pgd(ask, test["x"], 0.3, step=0.06, iterations=10)
        some = {k: v[:500] for k, v in test.items()}
        code = coding(best, some["x"])
        units = Widths(*(samples.median_distance(a) for a in (some["x"], some["y"], code.t)))
        planes = {
            name: information_plane(some["x"], some["y"], code, widths=w, normalized=True)
            for name, w in (("complexity", Widths()), ("own units", units))
        }
        return {
            "chosen": found.scores.min(),
            "epoch": jnp.argmin(found.scores),
            "RMSE": error(best, "test"),
            "training": error(best, "train"),
            **{name: jnp.sqrt(ask(x).mean()) for name, x in moved.items()},
            **{name: plane.complexity for name, plane in planes.items()},
            "relevance": planes["own units"].relevance / math.log(2),
            "predictions": coding(best, test["x"]).prediction[:, 0],
        }

    return jax.jit(jax.vmap(one))


def members(config: Training, data: Regression, task: Task, name: str, own: list):
    """What every member scored: `own` are pairs of a seed and its settings."""
    train = trainer(name, config, task.epochs, data.x.shape[1])
    every = [
        data.drawn(seed, wrong=task.wrong) | OWN | settings | {"seed": seed}
        for seed, settings in own
    ]
    return jax.device_get(train(stacked(every)))


def trained(study: kit.Study, label: str, task: Task) -> dict[str, dict[str, Any]]:
    """Each method's tuned setting, and what its seeds scored with it."""
    config, found = study.config.training, {}
    data = Regression.load(task.data, fetch=study.config.fetch)
    study.pin(**{f"data/{label}": data.sha256})
    work = functools.partial(members, config, data, task)
    spare = [10_000 + study.seeds[0] + i for i in range(config.tuning)]
    for name in study.config.methods:
        method = METHODS[name]
        settings = [
            {"rate": rate, method.knob: value}
            for rate, value in kit.grid(config.rates, method.values)
        ]
        own = [(seed, one) for one in settings for seed in spare]
        tuned = study.once(("tune", label, name), functools.partial(work, name, own))
        means = tuned["chosen"].reshape(len(settings), -1).mean(axis=1)
        best = settings[int(np.nanargmin(means))]
        own = [(seed, best) for seed in study.seeds]
        scored = study.once(("score", label, name), functools.partial(work, name, own))
        found[name] = {"setting": best, "tuned": tuned, "scored": scored}
    return found


def swept(study: kit.Study, task: Task, setting: dict[str, float]) -> dict[str, Any]:
    """CS-IB at every beta, two seeds: where it stands in the information plane."""
    own = [(s, setting | {"beta": b}) for b in BETAS for s in (20_000, 20_001)]
    data = Regression.load(task.data, fetch=study.config.fetch)
    given = study.config.training, data, task, "CS-IB", own
    found = study.once("plane", lambda: members(*given))
    mean = lambda key: found[key].reshape(len(BETAS), -1).mean(axis=1)  # noqa: E731
    plane = {key: mean(key) for key in ("relevance", "complexity", "own units")}
    ratio = 1 - plane["complexity"] / plane["complexity"][0]
    order = np.argsort(ratio)
    at = np.interp(0.3, ratio[order], plane["relevance"][order])
    return plane | {"loss": plane["relevance"][0] - at, "ratio": ratio}


def estimated(config: Any, seed: int) -> dict[str, float]:
    """The estimators against closed forms, of one seed."""
    rng, found, count = np.random.default_rng(seed), {}, config.points
    root = np.array([[1.2, 0.0], [0.3, 0.8]])
    x, y = rng.normal(size=(2, count, 2)).astype(np.float32)
    y = np.float32(y @ root.T + (1.0, 0.5))
    for s in (1.0, 0.3):
        more = s**2 / 2 * np.eye(2)
        sides = Gaussian(np.zeros(2), np.eye(2) + more), Gaussian(
            np.array((1.0, 0.5)), root @ root.T + more
        )
        u = _divergence(x, y, s / math.sqrt(2), unbiased=True)
        found[f"s={s:g}"] = abs(float(u - gaussian.cauchy_schwarz(*sides)))
    a, b = rng.normal(size=(2, count // 2, 1)).astype(np.float32)
    for r in CORRELATIONS:
        joint = np.float32(r * a + math.sqrt(1 - r**2) * b)
        both = [np.array([[1.125, c], [c, 1.125]]) for c in (r, 0.0)]
        closed = gaussian.cauchy_schwarz(*(Gaussian(np.zeros(2), c) for c in both))
        found[f"r={r:g}"] = abs(float(_information(a, joint, 0.5, 0.5) - closed))
    shapes = (config.batches, 8, 2), (config.batches, 8, 1), (config.batches, 8, 1)
    x, y, z = (np.float32(rng.normal(size=shape)) for shape in shapes)
    for name in ("psd", "paper"):
        found[name] = float(_conditional(x, y, y + 0.1 * z, name).min())
    roots = rng.normal(size=(2, 20_000, 2, 2)) * rng.lognormal(size=(2, 20_000, 1, 1))
    covs = roots @ roots.swapaxes(-1, -2) + 0.01 * np.eye(2)
    p, q = map(Gaussian, 3 * rng.normal(size=(2, 20_000, 2)), covs)
    least = np.minimum(gaussian.kl(p, q), gaussian.kl(q, p))
    whole = np.asarray(gaussian.cauchy_schwarz(p, q))
    return found | {
        "half": int((whole / 2 > least).sum()),
        "whole": int((whole > least).sum()),
    }


_divergence = jax.jit(samples.cauchy_schwarz, static_argnames="unbiased")
_information = jax.jit(paired.cauchy_schwarz_information)


@functools.partial(jax.jit, static_argnames="estimator")
def _conditional(x: Any, y: Any, z: Any, estimator: str) -> jax.Array:
    of = functools.partial(paired.conditional_cauchy_schwarz, estimator=estimator)
    return jax.vmap(lambda *sides: of(*sides, 1.0, 1.0))(x, y, z)


def modes(config: Any, seed: int) -> dict[str, Any]:
    """Free points that descend the divergence to two Gaussians."""
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(400, 2)) + np.repeat([[-4.0], [4.0]], 200, axis=0)
    start, target = np.float32(rng.normal(size=(400, 2))), np.float32(target)
    of = lambda x, key=None: samples.cauchy_schwarz(target, x, math.sqrt(0.5))  # noqa: E731
    ends = jax.jit(
        lambda x: descended(
            of, x, optax.sgd(200.0), config.steps, key=jax.random.key(0)
        )
    )(start)
    share = float((np.asarray(ends[-1]).sum(axis=1) > 0).mean())
    found = {"target": target, "start": start, "end": ends[-1]}
    return {"divergence": float(of(ends[-1])), "share": share, "points": found}


