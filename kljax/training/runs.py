"""A run's folder: lock, configuration, metrics, stages and where checkpoints lie.

config.json     the fields that change the mathematics; others are refused
env.json        versions and devices
metrics.jsonl   one line per logged step, the same bytes whenever a run is killed
timing.jsonl    wall-clock values, kept apart because they never repeat
stages/NAME.json  the result of a finished stage; its arrays in stages/NAME/
checkpoints/NAME/, figures/
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import socket
import time
import weakref
from collections.abc import Mapping
from typing import Any

import jax

from kljax.arguments import unlike
from kljax.errors import CheckpointError
from kljax.storing import (
    plain,
    read_json,
    read_value,
    replace_text,
    write_json,
    write_value,
)
from kljax.training.environment import environment

_STAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*")


class FolderInUse(RuntimeError):
    """Another process is writing in the run's folder."""


class RunFolder:
    """The folder of one run, open for one writer at a time.

    The lock belongs to the process and goes with it, however it ends. Of several JAX
    processes the first one writes.

    Args:
        path: the folder, made if need be.
        config: what changes the mathematics, as JSON values or dataclasses.
        env: versions and devices; None collects them.

    Raises:
        TypeError: `path` is no path, or `config` no mapping.
        FolderInUse: another writer is at work here.
        CheckpointError: the folder belongs to another configuration, or cannot be made.

    Example:
        >>> import tempfile
        >>> with RunFolder(tempfile.mkdtemp(), {"lr": 0.1}) as run:
        ...     run.finish_stage("teacher", {"accuracy": 0.9})
        ...     run.stage_result("teacher")
        {'accuracy': 0.9}
    """

    def __init__(
        self,
        path: str | os.PathLike,
        config: Mapping[str, Any],
        *,
        env: Mapping[str, Any] | None = None,
    ):
        if not isinstance(path, str | os.PathLike):
            raise unlike("path", path, "a folder's path")
        if not isinstance(config, Mapping) and not dataclasses.is_dataclass(config):
            raise unlike("config", config, "a dict of what changes the mathematics")
        self.path = pathlib.Path(path).absolute()
        self.config = plain(config, "config")
        self.config_hash = config_hash(config)
        self.primary = jax.process_index() == 0
        self._unlock = None
        if not self.primary:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._unlock = weakref.finalize(self, os.close, _locked(self.path))
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be a run's folder: {error}; choose another path, "
                "or check its permissions"
            ) from error
        try:
            self._adopt(plain(environment() if env is None else env))
        except BaseException:
            self.close()
            raise

    def _adopt(self, env: Any) -> None:
        config_path, env_path = self.path / "config.json", self.path / "env.json"
        if config_path.exists():
            found = read_json(config_path)
            if changed := _changes(found, self.config):
                raise CheckpointError(
                    f"{self.path} belongs to another configuration ({changed}); choose "
                    "another folder, or delete this one to start over"
                )
        else:
            write_json(config_path, self.config)
        for name in ("metrics.jsonl", "timing.jsonl"):
            _drop_torn_line(self.path / name)
        started: dict[str, Any] = {"event": "start", "time": time.time()}
        if not env_path.exists():
            write_json(env_path, env)
        elif changed := _changes(read_json(env_path), env):
            started["env_changed"] = changed
        self.time(started)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the lock back; may be called twice."""
        if self._unlock is not None:
            self._unlock()

    @property
    def is_open(self) -> bool:
        """Whether it may be written: not yet closed."""
        return not self.primary or (self._unlock is not None and self._unlock.alive)

    @property
    def figures(self) -> pathlib.Path:
        """The folder for pictures, made if need be."""
        folder = self.path / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def checkpoints(self, stage: str) -> pathlib.Path:
        """The folder of a stage's checkpoints."""
        return self.path / "checkpoints" / _named(stage)

    def stage_result(self, stage: str) -> Any:
        """What `finish_stage` was given, or None where the stage is not finished.

        Raises:
            CheckpointError: the file is there but cannot be read.
        """
        path = self.path / "stages" / f"{_named(stage)}.json"
        return read_value(path) if path.exists() else None

    def finish_stage(self, stage: str, result: Any) -> None:
        """Writes a stage's result, whole or not at all.

        Args:
            stage: its name.
            result: dicts, lists and tuples of numbers, words and arrays, as in
                `kljax.storing.write_value`.

        Raises:
            TypeError: a value of another kind.
        """
        if self.primary:
            write_value(self.path / "stages" / f"{_named(stage)}.json", result)

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl; give it `stage` and `step`."""
        if self.primary:
            _append(self.path / "metrics.jsonl", record)

    def time(self, record: Mapping[str, Any]) -> None:
        """Appends a line to timing.jsonl: for what never repeats."""
        if self.primary:
            _append(self.path / "timing.jsonl", record)

    def sync(self) -> None:
        """Brings metrics.jsonl to the disk; a checkpoint must not be ahead of it."""
        path = self.path / "metrics.jsonl"
        if self.primary and path.exists():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def metrics(self, stage: str) -> list[dict[str, Any]]:
        """The logged lines of a stage, in order."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        records = [_parsed(path, number, line) for number, line in enumerate(lines, 1)]
        return [record for record in records if record.get("stage") == stage]

    def rewind(self, stage: str, step: int) -> None:
        """Drops a stage's lines beyond `step`, by writing beside and renaming.

        Raises:
            CheckpointError: a line before the last cannot be read.
        """
        path = self.path / "metrics.jsonl"
        if not self.primary or not path.exists():
            return
        lines = path.read_text().splitlines(keepends=True)
        kept = []
        for number, line in enumerate(lines, 1):
            record = _parsed(path, number, line)
            if record.get("stage") != stage or record.get("step", 0) <= step:
                kept.append(line)
        if len(kept) < len(lines):
            replace_text(path, "".join(kept))


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that name a configuration, whatever its key order.

    Example:
        >>> config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
        True
    """
    text = json.dumps(plain(config, "config"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _locked(folder: pathlib.Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 200).decode(errors="replace").strip()
        os.close(descriptor)
        raise FolderInUse(
            f"{folder} is being written by {holder or 'another process'}; wait until "
            "it ends, or choose another folder"
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return descriptor


def _named(stage: str) -> str:
    if not isinstance(stage, str) or not _STAGE.fullmatch(stage):
        raise ValueError(
            f"stage must be letters, digits and any of ._=- and start with a letter or "
            f"digit, got {stage!r}"
        )
    return stage


def _changes(old: Any, new: Any) -> str:
    """The fields in which two JSON values differ, for a message; empty if none."""
    before, after = _flat(old), _flat(new)
    changed = []
    for name in sorted(before.keys() | after.keys()):
        there, here = before.get(name, "absent"), after.get(name, "absent")
        if there != here:
            changed.append(f"{name}: {there!r} there, {here!r} here")
    return ", ".join(changed)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {name: value}
    parts = [_flat(v, f"{name}.{k}" if name else k) for k, v in value.items()]
    return {key: item for part in parts for key, item in part.items()}


def _append(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    line = json.dumps(plain(record, path.name)) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _parsed(path: pathlib.Path, number: int, line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        said = f"{path}, line {number} is not JSON ({error}); restore it, or delete"
        raise CheckpointError(f"{said} the run's folder to start over") from error


def _drop_torn_line(path: pathlib.Path) -> None:
    if not path.exists():
        return
    text = path.read_bytes().decode(errors="replace")
    if text and not text.endswith("\n"):
        replace_text(path, text[: text.rfind("\n") + 1])
