"""Divergences from samples, judged by cases whose divergence is known exactly.

`kljax.divergences.estimate` beside kernel density estimates, neighbors and critics, on
KL(p‖q) of pairs of laws (`families`) that none of them is told. What is compared is the
error, whether the interval holds the truth, when it abstains, and what it costs.
"""

import dataclasses
import itertools
import json
import math
import pathlib
import random
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.estimators import page
from experiments.benchmarks.estimators.cases import DRAWS, Case, truth
from experiments.benchmarks.estimators.families import FAMILIES
from experiments.benchmarks.estimators.peers import PEERS
from experiments.harness import commit
from kljax.divergences import estimate

__all__ = ["PRESETS", "cases", "left", "measured", "study", "write"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Which cases, from which seed on."""

    seed: int
    families: Sequence[str]
    at: Mapping[int, Sequence[int]]
    """Dimensions by number of points."""
    targets: Sequence[float] = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0)
    """Nats, about; each case takes one of them by turns."""
    refused: float = 20.0
    draws: int = DRAWS
    peers: Sequence[str] = tuple(PEERS)
    peer_points: int = 20_000
    """Cases of more points are for us alone."""


_ALL = tuple(FAMILIES)
PRESETS = {
    "smoke": Sizes(
        0,
        ("Gaussian, mean", "discrete chain", "disjoint boxes"),
        {200: (2,)},
        targets=(0.5,),
        draws=2_000,
        peers=("kNN (NPEET)", "KLIEP"),
    ),
    "cpu": Sizes(
        20261128,  # families and thresholds were chosen on others
        _ALL,
        {
            100: (2,),
            300: (5,),
            2_000: (1, 2, 5, 10, 20, 50),
            10_000: (4,),
            100_000: (16,),
        },
    ),
}
PRESETS["gpu"] = PRESETS["cpu"]
"""Little of this runs on an accelerator: the same cases."""
_LARGE = ("Gaussian, both", "autoregression, sine")
"""Families of the one case of 100,000 points each."""
_HIGH = ("Gaussian, both", "autoregression, linear", "Student", "mixtures")
"""Families that are seen in 100 dimensions too."""


def cases(sizes: Sizes) -> Iterator[Case]:
    """Every family at every size that it exists at; targets by turns, not by chance.

    In a random order: of a run that is cut off, what is there is of all kinds.
    """
    found = list(_ordered(sizes))
    random.Random(sizes.seed).shuffle(found)
    yield from found


def _ordered(sizes: Sizes) -> Iterator[Case]:
    for number, name in enumerate(sizes.families):
        family = FAMILIES[name]
        turn = itertools.cycle(sizes.targets)
        for _ in range(number % len(sizes.targets)):
            next(turn)
        for n, dims in sizes.at.items():
            if n > 50_000 and name not in _LARGE:
                continue
            high = (100,) if n == 2_000 and name in _HIGH else ()
            for d in (*dims, *high):
                if not family.least <= d <= family.most or (family.refused and n < 200):
                    continue
                target = sizes.refused if family.refused else next(turn)
                seed = zlib.crc32(f"{sizes.seed} {name} {d} {n}".encode())
                yield Case(name, d, n, target, seed)


def study(preset: str, folder: pathlib.Path) -> list[pathlib.Path]:
    """Runs every case, stores it at once, writes the page.

    A run that was cut off is gone on with: delete what is stored to begin anew.
    """
    sizes = PRESETS[preset]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{preset}.jsonl"
    if not left(preset, folder):  # it was whole
        path.unlink()
    for case in left(preset, folder):
        row = measured(case, sizes)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        ours = row["found"]["kljax"]
        words = f"{case.family}, d={case.d}, n={case.n}: {row['truth']}"
        print(f"{words}, kljax {ours['value']}", file=sys.stderr, flush=True)
    return [path, *write(folder)]


def left(preset: str, folder: pathlib.Path) -> list[Case]:
    """Cases that are not stored yet."""
    path = folder / f"{preset}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    done = {json.loads(line)["seed"] for line in lines}
    return [case for case in cases(PRESETS[preset]) if case.seed not in done]


def write(folder: pathlib.Path) -> list[pathlib.Path]:
    """The page of what is stored."""
    refused = {name for name, one in FAMILIES.items() if one.refused}
    whole = {preset: len(list(cases(sizes))) for preset, sizes in PRESETS.items()}
    return page.write(folder, refused, whole)


def measured(case: Case, sizes: Sizes) -> dict[str, Any]:
    """One case: its truth, and what everyone finds in how many seconds."""
    with np.errstate(all="ignore"):
        exact = truth(case, sizes.draws)
        x_p, x_q = case.samples()
    asked = {"kljax": _ours}
    if case.n <= sizes.peer_points:
        asked |= {name: _peer(PEERS[name]) for name in sizes.peers}
    found = {}
    for name, call in asked.items():
        start = time.process_time()
        with np.errstate(all="ignore"):
            result = call(x_p, x_q, case.seed % 2**31)
        found[name] = {
            k: v if not isinstance(v, float) or math.isfinite(v) else None
            for k, v in result.items()
        } | {"seconds": round(time.process_time() - start, 3)}
    value = exact.value if math.isfinite(exact.value) else None
    return {
        "commit": commit(),
        **dataclasses.asdict(case),
        "truth": value,
        "truth_error": exact.error,
        "found": found,
    }


def _ours(x_p: np.ndarray, x_q: np.ndarray, seed: int) -> dict[str, Any]:
    found = estimate(x_p, x_q, "forward_kl")
    low, high = found.interval
    return {
        "value": found.value,
        "low": low,
        "high": high,
        "regime": found.regime,
        "reason": found.reason,
    }


def _peer(peer: Callable) -> Callable:
    def call(x_p: np.ndarray, x_q: np.ndarray, seed: int) -> dict[str, Any]:
        try:
            value, error = peer(x_p, x_q, seed)
        except (np.linalg.LinAlgError, ValueError) as failure:
            return {"value": math.nan, "low": 0.0, "high": 0.0, "reason": str(failure)}
        return {
            "value": value,
            "low": value - 1.96 * error,
            "high": value + 1.96 * error,
        }

    return call
