"""usage: python -m experiments COMMAND ...

list                 the experiments, their presets, claims and expected minutes
run NAME             runs one; the same command again resumes it
  --preset P           smoke, cpu (the default), gpu, paper
  --seed N             and any other field of its configuration, --teacher.steps 100
  --workdir D          where run folders lie (runs)
  --dry-run            only print the resolved configuration
  --publish            copy the results to experiments/results/ for the report
  --help               every field with its default
report               a site of all runs on this machine, in runs/report/
  --publish            of the published ones, in experiments/results/
env                  what a bug report needs
bench NAME           time, memory and error against the floor and other libraries
  --preset P           smoke, cpu (the default), gpu
  --seconds S          given to each of the things compared (0.3)
"""

# Nothing heavy is imported before it is needed: help, a misspelt name and the report
# start without JAX.

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from experiments import discovery, harness
from experiments.harness import settings
from experiments.report import measured_minutes, write_report
from kljax.errors import CheckpointError, unknown

_PROGRAM = "python -m experiments"
CHEAPLY = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
"""For programs that run a few steps: most of their time went into making them fast."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line itself takes, beside the fields of the experiment."""

    preset: str = "cpu"
    """The preset whose fields the others override."""
    workdir: pathlib.Path = pathlib.Path("runs")
    """The folder under which the run folder lies."""
    dry_run: bool = False
    """Print the resolved configuration and the run folder, then stop."""
    publish: bool = False
    """Copy the results to experiments/results/, where `report` finds them."""
    traceback: bool = False
    """Show where an error was raised."""


def main(
    arguments: Sequence[str] | None = None, *, package: str = "experiments"
) -> int:
    """Runs one command and returns its exit status.

    Args:
        arguments: what follows the program's name; the process's own by default.
        package: where the experiments are.

    Returns:
        0, 1 after an error that was reported, 2 for a command line that cannot be
        understood, 130 after an interruption.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    every = (_list, _run, _report, _env, _bench)
    commands = {command.__name__.lstrip("_"): command for command in every}
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    try:
        if name not in commands:
            raise discovery.UsageError(unknown("command", name, commands))
        return commands[name](rest, package)
    except discovery.UsageError as error:
        return _complain(error, 2)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("kljax", package):
            raise
        hint = "install what experiments need, pip install 'kljax[experiments]'"
        return _complain(f"{error}: {hint}", 1)
    except SystemExit as stop:  # argparse and tyro have printed why
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:  # while modules were imported: there is no run yet
        return _complain("interrupted", 130)
    except BrokenPipeError:  # `| head` has read enough
        sys.stdout = open(os.devnull, "w")
        return 0


def _complain(error: BaseException | str, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


def _parser(command: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(f"{_PROGRAM} {command}", allow_abbrev=False)


def _console() -> Any:
    from rich.console import Console

    # Piped output is read by programs and pagers: 100 columns, as on a wide terminal.
    width = None if sys.stdout.isatty() else 100
    return Console(file=sys.stdout, width=width, highlight=False, markup=False)


# ------------------------------------------------------------------ list, env, report


def _list(arguments: Sequence[str], package: str) -> int:
    _parser("list").parse_args(arguments)
    from rich.table import Table

    table = Table("name", "paper", "presets (minutes)", "claims", box=None)
    table.pad_edge = False
    published = discovery.folder_of(package) / "results"
    status = 0
    for name in discovery.find(package):
        try:
            module = discovery.load(name, package)
        except Exception as error:  # one broken module must not hide the others
            table.add_row(name, f"cannot be imported: {error}", "", "")
            status = 1
            continue
        minutes = measured_minutes(published / name, pathlib.Path("runs") / name)
        presets = ", ".join(
            f"{preset} ({minutes[preset]:g})" if preset in minutes else preset
            for preset in module.PRESETS
        )
        table.add_row(name, module.PAPER, presets, str(len(module.CLAIMS)))
    _console().print(table)
    return status


def _env(arguments: Sequence[str], package: str) -> int:
    _parser("env").parse_args(arguments)
    for key, value in settings(harness.environment()).items():
        text = ", ".join(value) if isinstance(value, list) else value
        print(f"{key:28} {text}")
    return 0


def _report(arguments: Sequence[str], package: str) -> int:
    parser = _parser("report")
    words = "write the pages of the published runs into their folder"
    parser.add_argument("--publish", action="store_true", help=words)
    folder = functools.partial(parser.add_argument, type=pathlib.Path)
    published = discovery.folder_of(package) / "results"
    folder("--results", default=published, help="the folder of published runs")
    words = "the folder of local runs, shown beside the published ones"
    folder("--workdir", default=pathlib.Path("runs"), help=words)
    given = parser.parse_args(arguments)
    local = None if given.publish else given.workdir
    try:
        written = write_report(given.results, local, abouts=discovery.abouts(package))
    except (CheckpointError, OSError, ValueError) as error:
        return _complain(error, 1)
    for path in written:
        print(path)
    return 0


def _bench(arguments: Sequence[str], package: str) -> int:
    from experiments.benchmarks import cores, recording

    # XLA counts the cores when the first array is made.
    with cores.one() if _only_cpu() else contextlib.nullcontext():
        return recording.command(arguments, package)


# ------------------------------------------------------------------ run


def _run(arguments: Sequence[str], package: str) -> int:
    experiments = discovery.find(package)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        print(f"\nexperiments: {', '.join(experiments) or 'none'}")
        return 0 if arguments else 2
    name, rest = arguments[0], list(arguments[1:])
    if name not in experiments:
        raise discovery.UsageError(unknown("experiment", name, experiments))
    # Figures are written to files: a display is never needed.
    os.environ.setdefault("MPLBACKEND", "Agg")
    cheaply = _asked_preset(rest) == "smoke" and _compile_cheaply()
    module = discovery.load(name, package)
    options, config = _parse(name, module, rest)
    folder = harness.run_folder(options.workdir, name, options.preset, config)
    if options.dry_run:
        for field, value in settings(config).items():
            print(shlex.join(harness.spelling(field, value)))
        print(f"run folder: {folder}")
        return 0
    from experiments import execution
    from kljax.training.interruption import like_ctrl_c

    again = shlex.join([*_PROGRAM.split(), "run", *arguments])
    published = discovery.folder_of(package) / "results"
    expected = measured_minutes(published / name).get(options.preset)
    about = f", about {expected:g} minutes" if expected else ""
    about += ", compiled cheaply" * cheaply
    print(f"{name}, preset {options.preset}, seed {config.seed}{about}")
    print(f"run folder: {folder}", flush=True)
    try:
        with like_ctrl_c():
            stored = execution.execute(name, module, options.preset, config, folder)
            if stored is None:  # a process that is not the first of several
                return 0
            execution.show(_console(), stored, folder)
            if options.publish:
                print(f"published: {execution.publish(folder, published)}")
    except KeyboardInterrupt as stop:  # the training loop's `Interrupted` is one
        why = str(stop) or "stopped by Ctrl-C (SIGINT)"
        print(f"\n{why}\nto go on: {again}", file=sys.stderr)
        return 130
    except Exception as error:
        if options.traceback or not isinstance(error, execution.REPORTED):
            raise
        words = f"{type(error).__name__}: {error}\n(--traceback shows where)"
        return _complain(words, 1)
    return 0


def _only_cpu() -> bool:
    other = importlib.metadata.entry_points(group="jax_plugins")
    other = other or importlib.util.find_spec("libtpu")
    return os.environ.get("JAX_PLATFORMS", "" if other else "cpu") == "cpu"


def _compile_cheaply() -> bool:
    # XLA reads its flags when the first array is made, JAX its own when it is imported.
    if not _only_cpu() or "XLA_FLAGS" in os.environ:
        return False
    for name, value in CHEAPLY.items():
        os.environ.setdefault(name, value)
    return True


def _asked_preset(arguments: Sequence[str]) -> str | None:
    # Empty where none is asked for, None where its name is missing.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", nargs="?", default="")
    return parser.parse_known_args(arguments)[0].preset


def _preset_of(arguments: Sequence[str], presets: Sequence[str]) -> str:
    # Looked up before the rest is parsed: it decides every other default.
    chosen = _asked_preset(arguments)
    if chosen == "":
        return "cpu" if "cpu" in presets else next(iter(presets))
    if chosen is None:
        known = ", ".join(presets)
        raise discovery.UsageError(f"--preset needs a name\nknown: {known}")
    if chosen not in presets:
        raise discovery.UsageError(unknown("preset", chosen, presets))
    return chosen


def _parse(name: str, module: Any, arguments: Sequence[str]) -> tuple[Options, Any]:
    import tyro

    preset = _preset_of(arguments, list(module.PRESETS))
    options, config = Options(preset=preset), module.PRESETS[preset]
    # Two dataclasses in one, both without a prefix: one help page shows all.
    kinds: Any = (tyro.conf.FlagCreatePairsOff[Options], type(config))
    own, rest = (Annotated[kind, tyro.conf.arg(name="")] for kind in kinds)
    both = dataclasses.make_dataclass("Run", [("options", own), ("config", rest)])
    try:
        parsed, strange = tyro.cli(
            both,
            args=arguments,
            default=both(options, config),
            prog=f"{_PROGRAM} run {name}",
            description=module.__doc__,
            config=(tyro.conf.AvoidSubcommands,),
            return_unknown_args=True,
        )
    except ValueError as error:  # the configuration's own check
        raise discovery.UsageError(str(error)) from error
    if strange:
        known = (f.replace("_", "-") for f in (*settings(options), *settings(config)))
        field = strange[0].partition("=")[0]
        words = unknown(f"field of {name}", field, (f"--{one}" for one in known))
        raise discovery.UsageError(words)
    _check_places(settings(config), settings(parsed.config))
    return parsed.options, parsed.config


def _check_places(preset: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    # A preset may name what its user is still to bring; who names a place has it.
    from kljax.models.files.pretrained import check_source

    for field, value in given.items():
        if not value or not isinstance(value, str) or value == preset[field]:
            continue
        *_, owner, kind = ("", *field.split("."))
        if kind in ("path", "folder") and not pathlib.Path(value).expanduser().exists():
            raise discovery.UsageError(
                f"{field}: {value!r} is no file or folder; correct the path"
            )
        if kind == "source" and owner != "data":  # of data `load` says what is wrong
            try:
                check_source(value)
            except (CheckpointError, ValueError) as error:
                raise discovery.UsageError(f"{field}: {error}") from error
