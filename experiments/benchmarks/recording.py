"""Runs the groups of a benchmark; results go to one file for all benchmarks.

A run takes the place of the one before of the same benchmark, preset and device.
"""

import argparse
import ast
import contextlib
import datetime
import importlib
import importlib.metadata
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import discovery
from experiments.benchmarks import pages
from kljax.errors import unknown

__all__ = ["command", "names"]

_PROGRAM = "python -m experiments bench"
_PEERS = ("torch", "distrax", "ott-jax", "pot", "pykeops", "liger-kernel")
_PEERS += ("transformers", "trl", "scipy")
_SAME_RUN = ("benchmark", "preset", "device")


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
    """``bench NAME``: measures, prints a table, stores results, writes their page."""
    known = names(package)
    parser = argparse.ArgumentParser(_PROGRAM, allow_abbrev=False)
    words = "writes the page of what is stored, without a name nothing else"
    parser.add_argument("name", nargs="?", help=f"one of: {', '.join(known)}; {words}")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        default=discovery.folder_of(package) / "results",
        help="the folder of benchmarks.jsonl, of the page and its pictures",
    )
    options = parser.parse_args(arguments)
    if options.name is None:
        for path in pages.write(options.results, package):
            print(path)
        return 0
    if options.name not in known:
        raise discovery.UsageError(unknown("benchmark", options.name, known))
    if not 0 <= options.seconds < float("inf"):
        raise discovery.UsageError(
            f"--seconds must be at least 0, got {options.seconds}"
        )
    module = importlib.import_module(f"{package}.benchmarks.{options.name}")
    if options.preset not in module.PRESETS:
        raise discovery.UsageError(unknown("preset", options.preset, module.PRESETS))
    rows = _measure(options.name, module, options.preset, options.seconds)
    _show(rows)
    for path in _store(rows, options.results, package):
        print(path)
    return 0


def _store(rows: list[dict], results: pathlib.Path, package: str) -> list[pathlib.Path]:
    results.mkdir(parents=True, exist_ok=True)
    path = results / "benchmarks.jsonl"
    run = [rows[0][key] for key in _SAME_RUN]
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    old = [row for row in map(json.loads, lines) if [row[k] for k in _SAME_RUN] != run]
    rows = [*old, *rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [path, *pages.write(results, package)]


def _measure(name: str, module: Any, preset: str, budget: float) -> list[dict]:
    import jax

    from experiments.benchmarks import measuring
    from experiments.harness import environment

    rates = measuring.floors(small=preset == "smoke")
    machine = environment()
    versions = dict(machine["versions"])
    for peer in _PEERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[peer] = importlib.metadata.version(peer)
    common = {
        "benchmark": name,
        "preset": preset,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": ", ".join(machine["devices"]),
        "processor": machine["processor"],
        "versions": versions,
        "commit": machine["commit"],
        "clock": "process CPU time" if measuring.on_cpu() else "wall",
        "cores": machine["cores"],
        "load": os.getloadavg()[0],
        "seconds_each": budget,
        "copy_gb_per_s": rates.copy / 1e9,
        "read_gb_per_s": rates.read / 1e9,
        "write_gb_per_s": rates.write / 1e9,
        "gemm_gflop_per_s": rates.gemm / 1e9,
        "exp_g_per_s": rates.exp / 1e9,
    }
    rows, absent = [], set()
    asked = {title for question in module.QUESTIONS for title in question.groups}
    for group in module.groups(preset):
        if group.title not in asked:
            raise ValueError(f"no question of {name} asks for {group.title!r}")
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
        if group.elsewhere is not None and here:
            taken = group.elsewhere(budget)
        elif group.timed:
            values = group.arguments()
            calls = {}
            for contender in here:
                given = contender.arguments
                given = values if given is None else given
                function = programs.get(contender.name, contender.function)
                calls[contender.name] = lambda f=function, given=given: f(*given)
            taken = measuring.seconds(calls, budget)
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
                    "peer": contender.peer and not contender.name.startswith("kljax"),
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
                f"  {r['contender']:28}{_number(r['seconds'], 1e3):>9}{over:>8}"
                f"{ratio:>8}{_number(r['temp_bytes'], 2**-20, '.1f'):>9}  {errors}"
            )
    print()


def _sizes(row: Mapping[str, Any]) -> str:
    found = {k[5:]: v for k, v in row.items() if k.startswith("size_")}
    return " ".join(f"{k}={v}" for k, v in found.items())
