"""The line: one Gaussian matched to two modes, all of it exact, in float64.

Where each divergence ends, whether an alpha that follows the effective sample size gets
out of the traps, and how uneven the weights are.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import kit
from kljax.theory.adaptive import adaptive_paths, sampled_paths
from kljax.theory.matching import LineMatching, fixed_points, log_std, with_std
from kljax.theory.mixtures import GaussianMixture
from kljax.theory.weights import weight_variance
from kljax.typing import Float

SIX = (
    "softened_reverse_kl",
    "reverse_kl",
    "jeffreys",
    "squared_hellinger",
    "jensen_shannon",
    "forward_kl",
)
BY_VARIANCE = tuple(SIX[i] for i in (1, 0, 4, 3, 2, 5))
WIDE = float(np.exp(0.6))
STARTS = np.array([(1.0, 0.5), (1.0, -1.5), (WIDE, 1.5), (WIDE, -0.5)])
"""(standard deviation, mean) of the student at the start."""
COVERS = 1.5
"""A student with at least this standard deviation holds both modes (target: 1.9)."""
LEVELS = (0.1, 0.2, 0.4)
CLIP = (0.1, 20.0)
DISTANCES = (1.0, 2.0, 3.0)
WAYS = ("clipped", "exact", "sampled")


class Line(NamedTuple):
    """What was measured; (std, mean) on the last axis where there are students."""

    low_noise: Float[np.ndarray, "divergences starts 2"]
    annealed: Float[np.ndarray, "divergences starts 2"]
    variances: Float[np.ndarray, "divergences distances 2"]
    """Exact, and as samples see it."""
    starts: Float[np.ndarray, "m 2"]
    """Those of the table, the two traps, then a grid."""
    clipped: Float[np.ndarray, "m steps 2"]
    exact: Float[np.ndarray, "m steps 2"]
    sampled: Float[np.ndarray, "starts steps 2"]
    alpha: Float[np.ndarray, "starts"]
    """Of `sampled`, at the end."""

    def covering(self, way: str) -> tuple[int, int]:
        """Starts from which the adaptive alpha comes to cover both modes, and all."""
        ends = getattr(self, way)[:, -1, 0]
        return int((ends >= COVERS).sum()), len(ends)

    def covers(self) -> dict[str, int]:
        """Of four starts, those from which the student ends over both modes"""
        found = (self.low_noise[..., 0] >= COVERS).sum(axis=1)
        return dict(zip(map(kit.title, SIX), found.tolist()))

    def weights(self) -> dict[str, Any]:
        exact, seen = self.variances[..., 0], self.variances[..., 1]
        # The weight of reverse KL, the first, has no variance: no ratio.
        gap = np.abs(seen[1:] / exact[1:] - 1)
        near, far = float(gap[:, 0].max()), float(gap[-1, 2])
        return {"d = 1": near, "d = 3": far, "order": seen[:, 0].tolist()}


def two_modes() -> GaussianMixture:
    """0.7 N(-2, 0.25) + 0.3 N(2, 0.25)."""
    means = jnp.array([[-2.0], [2.0]])
    return GaussianMixture(jnp.log(jnp.array([0.7, 0.3])), means, jnp.full(2, 0.5))


def matching(sigma: tuple, weights: tuple, reach: float) -> LineMatching:
    given = two_modes(), jnp.array(sigma), jnp.array(weights)
    return LineMatching.build(*given, bounds=(-reach, reach), points=601)


def measured(config: Any, seed: int) -> dict[str, Any]:
    """The fields of `Line`."""
    with jax.enable_x64(True):
        # A fourth level of weight 0 gives both tasks one shape and one compilation.
        low = matching((*LEVELS, LEVELS[-1]), (1.0, 1.0, 1.0, 0.0), 10.0)
        up = matching((0.1, 0.3, 1.0, 3.0), (0.01, 0.09, 1.0, 9.0), 30.0)
        given: Any = SIX, log_std(STARTS)
        paths = (fixed_points(task, *given, steps=config.steps) for task in (low, up))
        low_noise, annealed = map(with_std, paths)
        # The traps: where Jensen-Shannon and reverse KL stay on one mode.
        traps = jnp.stack([low_noise[4, 1], low_noise[1, 2]])
        side = np.geomspace(0.3, 2.7, max(1, config.starts // 9)).tolist()
        grid = np.array(kit.grid(side, np.linspace(-4, 4, 9).tolist()))
        starts = log_std(jnp.concatenate([STARTS, traps, grid[: config.starts]]))
        long, short = config.adaptive_steps, config.sampled_steps
        keys = jax.random.split(jax.random.key(seed))
        given = keys[0], two_modes(), starts[:6], jnp.array(LEVELS)
        paths = [adaptive_paths(low, starts, clip=c, steps=long) for c in (CLIP, None)]
        paths.append(sampled_paths(*given, steps=short, samples=config.samples))
        draws = jax.random.normal(keys[1], (config.variance_samples,), jnp.float32)
        variance = jax.jit(
            lambda d, draws: jnp.array(
                [[weight_variance(h, d, x) for x in (None, draws)] for h in BY_VARIANCE]
            )
        )
        return {
            "low_noise": low_noise,
            "annealed": annealed,
            "variances": np.stack([variance(d, draws) for d in DISTANCES], axis=1),
            "starts": with_std(starts),
            **{way: with_std(one.theta) for way, one in zip(WAYS, paths)},
            "alpha": paths[-1].alpha[:, -1],
        }


def show(study: kit.Study, line: Line) -> None:
    """Tables of ends and variances; the plane of (mean, std) with adaptive paths."""
    columns = ("", *(f"from ({a:.2g}, {b:.2g})" for a, b in line.starts[:4]))
    about = (
        "Target: 0.7 N(-2, 0.25) + 0.3 N(2, 0.25), std 1.9, mean -0.8. Exact descent; "
        "low noise: levels 0.1, 0.2, 0.4."
    )
    for title, ends in {"Low noise": line.low_noise, "Up to 3": line.annealed}.items():
        cells = [[f"{a:.4f}, {b:.4f}" for a, b in row] for row in ends]
        rows = [(kit.title(name), *row) for name, row in zip(SIX, cells)]
        title = f"{title}: (std, mean) where each divergence ends"
        study.table(title, columns, rows, about)
    names = [f"{kind}, d = {d:g}" for d in DISTANCES for kind in ("exact", "seen")]
    cells = line.variances.reshape(len(SIX), -1).tolist()
    rows = [(kit.title(name), *row) for name, row in zip(BY_VARIANCE, cells)]
    about = "Var h / (E h)^2 for N(d, 1) against N(0, 1): exact, and seen by samples."
    study.table("Variance of the weight", ("", *names), rows, about)
    study.metrics |= {f"line/{way}": line.covering(way)[0] for way in WAYS}
    study.metrics["line/sampled_ends"] = line.sampled[:, -1]
    study.metrics["line/sampled_alpha"] = line.alpha
    with study.figure(
        "fixed_points",
        "Where fixed divergences end, on one mode or over both, and an adaptive alpha",
        "One Gaussian matched to 0.7 N(-2, ¼) + 0.3 N(2, ¼) at low noise, exactly. "
        "On a mode the std is ½, over both near the target's 1.9 (dotted). Right: "
        "alpha steered by the effective sample size of the exact ratio, and of that "
        "clipped as in training, from starts and from traps on a mode.",
        panels=2,
        size=(5.5, 4.6),
        sharey=True,
    ) as axes:
        for name, mark, (std, mean) in zip(SIX, "osv^D*", line.low_noise.mT):
            label = kit.title(name)
            axes[0].scatter(mean, std, 70, marker=mark, alpha=0.7, label=label)
        ways = {"clipped": (slice(6), "tab:green"), "exact": (slice(4, 6), "tab:red")}
        for way, (rows, color) in ways.items():
            paths = [line.starts[rows, None], getattr(line, way)[rows]]
            std, mean = np.concatenate(paths, axis=1).T
            axes[1].plot(mean, std, c=color)
            axes[1].plot(mean[-1], std[-1], "o", c=color, ms=7, label=f"{way} ratio")
        (std, mean), trap = line.starts[:4].T, line.starts[4:6].T
        axes[1].plot(trap[1], trap[0], "ks", mfc="none", ms=11, label="trap")
        titles = "fixed divergences: ends", "adaptive alpha: paths"
        for axis, title in zip(axes, titles):
            axis.plot(mean, std, "kx", label="start")
            axis.axhline(1.9, c="grey", lw=0.8, ls=":")
            axis.set(title=title, xlim=(-3, 3), xlabel="mean", ylabel="std")
            axis.legend(fontsize=8, loc="upper right")
