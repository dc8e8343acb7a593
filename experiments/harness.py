"""What a run of a paper returns, its configuration, and what is stored of the two."""

import dataclasses
import hashlib
import json
import pathlib
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kljax.errors import unknown
from kljax.storing import plain

SCHEMA = 1
STATES = ("holds", "fails", "shown", "undecided", "not measured")
STORED = ("verdicts", "metrics", "tables", "figures", "scale", "made", "remarks")
"""Of `Results`; `seconds` differ between equal runs."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a run measured for a claim.

    Args:
        measured: the number; empty where it was not measured.
        holds: `None` where nothing was decided.
        interval: of the number, with what it is over.
        note: what must be said beside it.
        measure: what the number is, in words.
        shown: whether there is no bar, only a number.
    """

    measured: str
    holds: bool | None
    interval: str = ""
    note: str = ""
    measure: str = ""
    shown: bool = False

    @property
    def status(self) -> str:
        """One of `STATES`."""
        if self.holds is not None:
            return "holds" if self.holds else "fails"
        if not self.measured:
            return "not measured"
        return "shown" if self.shown else "undecided"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a run: every row is as long as `columns`.

    One that is `detail` is left out on the terminal and folded in the report.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    detail: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture of a run: `path` is the name of its file inside `figures/`."""

    path: str
    caption: str
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run returns: numbers, tables, pictures and a verdict per claim.

    `scale` says how large it was (data, parameters); `made` which code made which
    stages, `remarks` what must be said of that, `seconds` what they took (CPU, wall).
    """

    metrics: dict[str, Any]
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    verdicts: dict[str, Verdict]
    scale: str = ""
    made: tuple[dict[str, Any], ...] = ()
    remarks: tuple[str, ...] = ()
    seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)


# ------------------------------------------------------------------ configuration


def bookkeeping(default: Any, **kwargs: Any) -> Any:
    """A field of a `Config` that cannot change the numbers: where, how often to log.

    Such fields stay out of the hash that names the run folder, so that a run goes on
    in its folder after they were changed.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Config:
        ...     seed: int = 0
        ...     log_every: int = bookkeeping(50)
        >>> mathematics(Config())
        {'seed': 0}
    """
    return dataclasses.field(default=default, metadata={"bookkeeping": True}, **kwargs)


def check_names(
    field: str, given: Sequence[str], known: Iterable[str], suffix: str = ""
) -> None:
    """Whether a field of a `Config` names known things, each once.

    Call it in `__post_init__`: a wrong name then fails before anything runs.

    Args:
        field: the field's name.
        given: what it holds.
        known: what it may hold.
        suffix: what may stand behind a known name, after a slash; empty: nothing may.

    Raises:
        ValueError: nothing is named, a name twice, or one that is not known.

    Example:
        >>> check_names("methods", ["a", "b/fast"], ["a", "b"], suffix="fast")
    """
    known = tuple(known)
    if not given:
        raise ValueError(f"{field} names nothing; known: {', '.join(known)}")
    if twice := sorted({name for name in given if list(given).count(name) > 1}):
        raise ValueError(f"{field} names {', '.join(twice)} twice")
    for name in given:
        head, slash, tail = name.partition("/")
        if head not in known:
            raise ValueError(unknown(f"name in {field}:", head, known))
        if slash and (tail != suffix or not suffix):
            behind = f"only /{suffix} may" if suffix else "nothing may"
            raise ValueError(f"{field}: {name!r}: {behind} stand behind a name")


def mathematics(config: Any) -> dict[str, Any]:
    """The fields of a configuration that change the numbers, as nested plain values."""
    fields = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("bookkeeping"):
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            # The class tells two divergences with the same fields apart.
            value = {"class": type(value).__name__, **mathematics(value)}
        fields[field.name] = plain(value)
    return fields


def settings(config: Any, prefix: str = "") -> dict[str, Any]:
    """All fields by their dotted names, as the command line spells them.

    Example:
        >>> settings({"data": {"path": "x"}, "seed": 0})
        {'data.path': 'x', 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for name, value in plain(config).items():
        if isinstance(value, dict):
            flat |= settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def spelling(field: str, value: Any) -> list[str]:
    """A field as the words that set it on the command line.

    Example:
        >>> spelling("data.augment", False), spelling("seeds", [0, 1])
        (['--data.no-augment'], ['--seeds', '0', '1'])
    """
    field = field.replace("_", "-")
    if isinstance(value, bool):
        head, dot, tail = field.rpartition(".")
        return [f"--{head}{dot}{tail if value else f'no-{tail}'}"]
    return [f"--{field}", *map(str, _flat(value))]


def _flat(value: Any) -> list[Any]:
    """What lists hold, and the lists in them."""
    if not isinstance(value, list):
        return [value]
    return [one for part in value for one in _flat(part)]


def config_hash(config: Any) -> str:
    """Eight hexadecimal digits over `mathematics(config)` without the seed."""
    fields = {k: v for k, v in mathematics(config).items() if k != "seed"}
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_folder(
    root: pathlib.Path | str, experiment: str, preset: str, config: Any
) -> pathlib.Path:
    """`<root>/<experiment>/<preset>-s<seed>-<hash>`.

    A function of the configuration: the same command finds its own run again.
    """
    name = f"{preset}-s{config.seed}-{config_hash(config)}"
    return pathlib.Path(root) / experiment / name


# ------------------------------------------------------------------ what is stored


def sentences(doc: str | None, count: int) -> str:
    """The first sentences of a docstring, without its commands.

    Example:
        >>> sentences("One: two. Three in arXiv 1.2? Four. Five.", 2)
        'One: two. Three in arXiv 1.2?'
    """
    paragraphs = re.split(r"\n\s*\n", (doc or "").strip())
    text = " ".join(p for p in paragraphs if not p.startswith("    python -m"))
    found = re.split(r"(?<=[.?!])\s+(?=[A-Z])", " ".join(text.split()))
    return " ".join(found[:count])


def outcome(status: str, stored: Mapping[str, Any]) -> str:
    """A verdict's status as it is shown; one that a short run left open says how."""
    if status == "undecided" and not stored["config"].get("decide", True):
        return f"undecided ({stored['preset']}); --preset cpu decides"
    return status


def results_from(stored: Mapping[str, Any]) -> Results:
    """The `Results` inside what `results.json` holds."""
    kept: dict[str, Any] = {k: stored[k] for k in STORED if k in stored}
    kept["tables"] = tuple(Table(**table) for table in stored["tables"])
    kept["figures"] = tuple(Figure(**figure) for figure in stored["figures"])
    kept["verdicts"] = {k: Verdict(**v) for k, v in stored["verdicts"].items()}
    return Results(**kept)


def format_cell(value: Any) -> str:
    """A cell of a table as text: four significant digits, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{float(value):.4g}"
    return str(value)


def commit() -> str | None:
    """The repository's commit, or `None` outside of one."""
    return _git("rev-parse", "HEAD")


def environment() -> dict[str, Any]:
    """What `kljax.training.environment` says, with `commit` and `dirty`.

    `commit` is `None` outside a repository; `dirty` says whether tracked files differ
    from it.
    """
    from kljax.training import environment

    head, changes = commit(), _git("status", "--porcelain", "--untracked-files=no")
    return {**environment(), "commit": head, "dirty": bool(changes) if head else None}


def _git(*arguments: str) -> str | None:
    words = ["git", "-C", str(pathlib.Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
