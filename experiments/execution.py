"""Runs an experiment in its folder; stores, shows and publishes what it returned."""

import os
import pathlib
import shlex
import shutil
import time
from collections.abc import Mapping
from typing import Any

import jax

from experiments import harness, kit
from kljax.errors import CheckpointError, DataError, NonFiniteLoss
from kljax.storing import read_json, write_json
from kljax.training.progress import rich_progress
from kljax.training.runs import FolderInUse

REPORTED = (CheckpointError, DataError, FolderInUse, NonFiniteLoss, OSError, ValueError)
"""Errors whose message says what to do: no traceback unless asked for."""


def overrides(config: Any, preset: Any) -> dict[str, Any]:
    """Fields that change the numbers and differ from the preset's, without the seed."""
    ours, theirs = (
        harness.settings(harness.mathematics(one) | {"seed": 0})
        for one in (config, preset)
    )
    return dict(item for item in ours.items() if item not in theirs.items())


def rerun_command(name: str, preset: str, config: Any, default: Any) -> str:
    """The command that gives this configuration, without bookkeeping fields."""
    words = ["python", "-m", "experiments", "run", name, "--preset", preset]
    changed = overrides(config, default)
    if config.seed != default.seed:
        changed = {"seed": config.seed, **changed}
    for field, value in changed.items():
        if field.rpartition(".")[2] == "class":  # no field can have this name
            continue
        words += harness.spelling(field, value)
    return shlex.join(words)


def _record_session(
    folder: pathlib.Path, seconds: float, results: harness.Results | None
) -> None:
    # Beside the results: wall-clock time differs between equal runs.
    path = folder / "timing.json"
    sessions = read_json(path)["sessions"] if path.is_file() else []
    sessions.append({"seconds": round(seconds, 1), "finished": results is not None})
    total = round(sum(session["seconds"] for session in sessions), 1)
    stages = results.seconds if results else {}
    write_json(path, {"seconds": total, "sessions": sessions, "stages": stages})


def execute(
    name: str,
    module: Any,
    preset: str,
    config: Any,
    folder: pathlib.Path,
    *,
    progress: Any = None,
) -> dict[str, Any] | None:
    """Runs `module` in `folder` and writes `results.json` and `timing.json` there.

    Args:
        preset: the name of the preset that `config` started from.
        folder: the run folder; made where it is missing.
        progress: where to show what is going on; bars on the terminal by default.

    Returns:
        What `results.json` holds, or `None` in all processes but the first.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    started, results = time.perf_counter(), None
    progress = progress or rich_progress()
    try:
        results = kit.perform(module, config, workdir=folder, progress=progress)
    finally:
        if jax.process_index() == 0:
            _record_session(folder, time.perf_counter() - started, results)
    if jax.process_index():
        return None
    default = module.PRESETS[preset]
    stored = {
        "schema": harness.SCHEMA,
        "experiment": name,
        "title": harness.sentences(module.__doc__, 1).rstrip(".") or name,
        "about": harness.sentences(module.__doc__, 4),
        "paper": module.PAPER,
        "preset": preset,
        "seed": config.seed,
        "config": harness.mathematics(config),
        "config_hash": harness.config_hash(config),
        "overrides": overrides(config, default),
        "command": rerun_command(name, preset, config, default),
        "claims": [claim.stored() for claim in module.CLAIMS],
        **{k: getattr(results, k) for k in harness.STORED},
        "environment": harness.environment(),
    }
    write_json(folder / "results.json", stored)
    return read_json(folder / "results.json")


_STYLES = {
    "holds": ("✓", "green"),
    "fails": ("✗", "bold red"),
    "shown": ("·", "cyan"),
    "undecided": ("?", "dim"),
    "not measured": ("–", "dim"),
}


def grid(table: harness.Table) -> Any:
    """A table as the terminal shows it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = Table(
        *table.columns,
        title=Text(table.title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for row in table.rows:
        found.add_row(*map(harness.format_cell, row))
    return found


def show(console: Any, stored: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Prints tables, verdicts and the paths of pictures of a finished run."""
    from rich.padding import Padding
    from rich.text import Text

    results = harness.results_from(stored)
    for table in results.tables:
        if not table.detail:
            console.print(grid(table))
            if table.caption:
                console.print(Text(table.caption, "dim"))
    for claim in stored["claims"]:
        verdict = results.verdicts[claim["id"]]
        sign, style = _STYLES[verdict.status]
        mark = f"{sign} {harness.outcome(verdict.status, stored)}"
        console.print(Text.assemble((mark, style), "  ", (claim["id"], "bold")))
        lines = [claim["statement"]]
        if verdict.measured:
            interval = f" ({verdict.interval})" if verdict.interval else ""
            measure = verdict.measure or claim["measure"]
            lines.append(f"{measure}: {verdict.measured}{interval}; bar {claim['bar']}")
        for line in filter(None, (*lines, verdict.note)):
            console.print(Padding(Text(line), (0, 0, 0, 4)))
    for figure in results.figures:
        print(f"picture: {folder / 'figures' / figure.path}")
    folded = [table.title for table in results.tables if table.detail]
    if folded:
        print(f"more tables, in the report: {', '.join(folded)}")
    for remark in results.remarks:
        console.print(Text(f"warning: {remark}", "yellow"), soft_wrap=True)
    print(f"results: {folder / 'results.json'}")
    states = [results.verdicts[claim["id"]].status for claim in stored["claims"]]
    counts = (f"{states.count(s)} {s}" for s in harness.STATES if s in states)
    print("claims: " + ", ".join(counts))


def moved_bars(before: pathlib.Path, stored: Mapping[str, Any]) -> list[str]:
    """Bars that are not what they were when results were published before."""
    if not before.is_file():
        return []
    old = read_json(before)
    bars = {claim["id"]: claim["bar"] for claim in old["claims"]}
    found = [
        f"the bar of {claim['id']} was {bars[claim['id']]!r} when it was published "
        f"before, and is {claim['bar']!r} now"
        for claim in stored["claims"]
        if bars.get(claim["id"], claim["bar"]) != claim["bar"]
    ]
    return list(dict.fromkeys([*old.get("moved", []), *found]))


def publish(folder: pathlib.Path, results: pathlib.Path) -> pathlib.Path:
    """Copies a finished run's results and pictures to `<results>/<name>/<label>/`.

    The label is the preset, the seed if it is not 0, a hash if fields were changed. An
    older run that was published under the same label is replaced as a whole.

    Returns:
        The folder that was written.
    """
    stored = read_json(folder / "results.json")
    seed = f"-s{stored['seed']}" if stored["seed"] else ""
    changed = f"-{stored['config_hash']}" if stored["overrides"] else ""
    target = results / stored["experiment"] / f"{stored['preset']}{seed}{changed}"
    stored["moved"] = moved_bars(target / "results.json", stored)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    (beside / "figures").mkdir(parents=True)
    write_json(beside / "results.json", stored)
    shutil.copyfile(folder / "timing.json", beside / "timing.json")
    for figure in stored["figures"]:
        source = folder / "figures" / figure["path"]
        shutil.copyfile(source, beside / "figures" / figure["path"])
    shutil.rmtree(target, ignore_errors=True)
    return beside.rename(target)
