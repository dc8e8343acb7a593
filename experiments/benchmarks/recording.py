"""Runs the groups of a benchmark; results go to one file for all benchmarks."""

import argparse
import ast
import datetime
import importlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import discovery
from kljax.errors import unknown

__all__ = ["command", "names"]

_PROGRAM = "python -m experiments bench"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def names(package: str = "experiments") -> tuple[str, ...]:
    """The benchmarks of a package, found without importing them."""
    found = []
    folder = discovery.folder_of(package) / "benchmarks"
    for path in sorted(folder.glob("*.py")):
        functions = {
            node.name
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef)
        }
        if "groups" in functions:
            found.append(path.stem)
    return tuple(found)


def command(arguments: Sequence[str], package: str) -> int:
    """``bench NAME``: measures, prints a table, appends results, draws."""
    known = names(package)
    parser = argparse.ArgumentParser(_PROGRAM, allow_abbrev=False)
    parser.add_argument("name", help=f"one of: {', '.join(known)}")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        default=discovery.folder_of(package) / "results",
        help="the folder of benchmarks.jsonl and of the pictures",
    )
    options = parser.parse_args(arguments)
    if options.name not in known:
        raise discovery.UsageError(unknown("benchmark", options.name, known))
    if options.repetitions < 1:
        raise discovery.UsageError(
            f"--repetitions must be at least 1, got {options.repetitions}"
        )
    module = importlib.import_module(f"{package}.benchmarks.{options.name}")
    if options.preset not in module.PRESETS:
        raise discovery.UsageError(unknown("preset", options.preset, module.PRESETS))
    rows = _measure(options.name, module, options.preset, options.repetitions)
    _show(rows)
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "benchmarks.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    print(path)
    for picture in _draw(options.name, rows, options.results / "benchmarks"):
        print(picture)
    return 0


def _measure(name: str, module: Any, preset: str, repetitions: int) -> list[dict]:
    import jax

    from experiments.benchmarks import measuring
    from experiments.environment import environment

    rates = measuring.floors(small=preset == "smoke")
    machine = environment()
    common = {
        "benchmark": name,
        "preset": preset,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": ", ".join(machine["devices"]),
        "processor": machine["processor"],
        "versions": machine["versions"],
        "commit": machine["commit"],
        "clock": "process CPU time" if measuring.on_cpu() else "wall",
        "repetitions": repetitions,
        "copy_gb_per_s": rates.copy / 1e9,
        "read_gb_per_s": rates.read / 1e9,
        "write_gb_per_s": rates.write / 1e9,
        "gemm_gflop_per_s": rates.gemm / 1e9,
        "exp_g_per_s": rates.exp / 1e9,
    }
    rows, absent = [], set()
    for group in module.groups(preset):
        here = [c for c in group.contenders if c.function is not None]
        for contender in group.contenders:
            if contender.function is None and contender.name not in absent:
                absent.add(contender.name)
                print(f"not compared, as it cannot run here: {contender.name}")
        sizes = ", ".join(f"{k}={v}" for k, v in group.sizes.items())
        print(f"measuring {group.title}, {sizes}", file=sys.stderr, flush=True)
        shapes = jax.eval_shape(group.arguments)
        programs = {
            c.name: measuring.compiled(c.function, shapes) for c in here if c.compiled
        }
        taken: Mapping[str, float] = {}
        grown: dict[str, int | None] = {}
        if group.timed:
            values = group.arguments()
            calls = {}
            for contender in here:
                given = contender.arguments
                given = values if given is None else given
                function = programs.get(contender.name, contender.function)
                calls[contender.name] = lambda f=function, given=given: f(*given)
            taken = measuring.seconds(calls, repetitions)
            grown = {
                c.name: measuring.resident_growth(calls[c.name])
                for c in here
                if not c.compiled
            }
            del calls, values
        for contender in here:
            program = programs.get(contender.name)
            memory = grown.get(contender.name)
            if program is not None:
                memory = measuring.temporary_bytes(program)
            rows.append(
                {
                    **common,
                    "group": group.title,
                    **{f"size_{k}": v for k, v in group.sizes.items()},
                    "contender": contender.name,
                    "seconds": taken.get(contender.name),
                    "floor_seconds": group.floor(rates) if group.timed else None,
                    "temp_bytes": memory,
                    "errors": dict(contender.error()) if contender.error else {},
                    "notes": dict(contender.notes()) if contender.notes else {},
                }
            )
    return rows


def _number(x: float | None, scale: float, digits: str = ".3g") -> str:
    return "" if x is None else format(x * scale, digits)


def _show(rows: Sequence[dict]) -> None:
    print(f"device {rows[0]['device']}, {rows[0]['processor']}, {rows[0]['clock']}")
    print(
        f"copy {rows[0]['copy_gb_per_s']:.1f} GB/s, read "
        f"{rows[0]['read_gb_per_s']:.1f}, write {rows[0]['write_gb_per_s']:.1f}, GEMM "
        f"{rows[0]['gemm_gflop_per_s']:.0f} GFLOP/s, "
        f"exp {rows[0]['exp_g_per_s']:.2f} G/s"
    )
    titles = dict.fromkeys((r["group"], _sizes(r)) for r in rows)
    for title, sizes in titles:
        chosen = [r for r in rows if (r["group"], _sizes(r)) == (title, sizes)]
        print(f"\n{title}, {sizes}")
        base = next((r["seconds"] for r in chosen if r["contender"] == "kljax"), None)
        print(f"  {'':28}{'ms':>9}{'/floor':>8}{'kljax/':>8}{'MiB':>9}  errors")
        for r in chosen:
            over = ratio = ""
            if r["seconds"] is not None:
                over = _number(r["seconds"] / r["floor_seconds"], 1, ".2f")
                ratio = _number(base / r["seconds"], 1, ".2f") if base else ""
            errors = ", ".join(
                [f"{k} {v:.1e}" for k, v in r["errors"].items()]
                + [f"{k} {v:.4g}" for k, v in r.get("notes", {}).items()]
            )
            print(
                f"  {r['contender']:28}{_number(r['seconds'], 1e3, '.1f'):>9}{over:>8}"
                f"{ratio:>8}{_number(r['temp_bytes'], 2**-20, '.1f'):>9}  {errors}"
            )
    print()


def _sizes(row: Mapping[str, Any]) -> str:
    found = {k[5:]: v for k, v in row.items() if k.startswith("size_")}
    return " ".join(f"{k}={v}" for k, v in found.items())


def _draw(name: str, rows: Sequence[dict], folder: pathlib.Path) -> list[pathlib.Path]:
    """One picture a group and size that varies: time and memory against it."""
    from matplotlib.figure import Figure

    written = []
    for title in dict.fromkeys(r["group"] for r in rows):
        group = [r for r in rows if r["group"] == title]
        for size in [k for k in group[0] if k.startswith("size_")]:
            if not isinstance(group[0][size], int):
                continue
            others = [k for k in group[0] if k.startswith("size_") and k != size]
            # The line on which most points lie; the other sizes stay put.
            fixed = [tuple(r[k] for k in others) for r in group]
            most = max(
                dict.fromkeys(fixed),
                key=lambda f: len({r[size] for r, g in zip(group, fixed) if g == f}),
            )
            line = [r for r, f in zip(group, fixed) if f == most]
            if len({r[size] for r in line}) < 2:
                continue
            figure = Figure(figsize=(9, 3.6), layout="constrained")
            axes = figure.subplots(1, 2)
            what = (("seconds", 1e3, "ms"), ("temp_bytes", 2**-20, "MiB"))
            for axis, (key, scale, unit) in zip(axes, what):
                for i, who in enumerate(dict.fromkeys(r["contender"] for r in line)):
                    points = sorted(
                        (r[size], r[key] * scale)
                        for r in line
                        if r["contender"] == who and r[key]
                    )
                    if points:
                        marker = _MARKERS[i % len(_MARKERS)]
                        axis.plot(*zip(*points), marker=marker, label=who)
                axis.set(xscale="log", yscale="log", xlabel=size[5:], ylabel=unit)
                at = sorted({r[size] for r in line if r[key]})
                axis.set_xticks(at, [f"{x:,}" for x in at], fontsize=8)
                axis.minorticks_off()
            axes[0].legend(fontsize=7)
            held = " ".join(f"{k[5:]}={v}" for k, v in zip(others, most))
            figure.suptitle(f"{title} ({held})", fontsize=9)
            folder.mkdir(parents=True, exist_ok=True)
            slug = title.replace(" ", "_").replace("+", "and")
            path = folder / f"{name}-{slug}-{size[5:]}.png"
            figure.savefig(path, dpi=110, metadata={"Software": None})
            written.append(path)
    return written
