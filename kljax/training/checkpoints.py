"""Checkpoints through Orbax: written in the background, whole or absent.

    folder/00000500/state/         what Orbax wrote
    folder/00000500/manifest.json  every leaf's path, shape and type, every file's hash
    folder/LAST                    the newest step that was ever finished
    folder/.writing-*, .old-*      leftovers of a killed process: at the start the whole
                                   ones are put in place, the others removed

A step's folder appears by one rename, after Orbax is done and the manifest written. So
a folder whose files do not fit its manifest was damaged later, and says so.
"""

import hashlib
import json
import logging
import os
import pathlib
import shutil
import threading
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.arguments import whole
from kljax.errors import CheckpointError
from kljax.storing import replace_text, write_text
from kljax.training.state import is_key
from kljax.typing import PyTree

_FORMAT = 1
_NONE, _FAILED = -1, -2
_LOG = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one stage, a context that waits for the last write.

    Args:
        folder: where they lie; made with the first one.
        owner: hash of the run's configuration; another one's checkpoint is refused.
        keep: how many to keep, at least 2 (the last may be damaged one day).

    Example:
        >>> import tempfile
        >>> with Checkpoints(tempfile.mkdtemp()) as saved:
        ...     saved.save(5, {"w": jnp.ones(3)})
        ...     saved.wait()
        ...     tree = saved.restore({"w": jnp.zeros(3)})
    """

    def __init__(self, folder: str | os.PathLike, *, owner: str = "", keep: int = 2):
        whole("keep", keep, least=2)
        self.folder = pathlib.Path(folder).absolute()
        self.owner = owner
        self.keep = keep
        self.primary = jax.process_index() == 0
        self._writer: Any = None
        self._finisher: threading.Thread | None = None
        self._failure: Exception | None = None
        self._last: int | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def last(self) -> pathlib.Path | None:
        """The last checkpoint that is known to be whole."""
        return None if self._last is None else self._path(self._last)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, whole or damaged, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit())

    def save(self, step: int, tree: PyTree) -> None:
        """Copies the tree to the host, then writes it in the background.

        Waits for the write before, if that is still going on.

        Raises:
            CheckpointError: this write could not be started, or the last one failed.
        """
        import orbax.checkpoint as ocp

        self.wait()
        arrays, leaves = _flattened(tree)
        description = {
            "format": _FORMAT,
            "step": step,
            "owner": self.owner,
            "leaves": leaves,
        }
        if self._writer is None:
            self._writer = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        writing = self._writing(step)
        try:
            if self.primary:
                _remove(writing)
                writing.mkdir(parents=True)
            self._writer.save(writing / "state", args=ocp.args.StandardSave(arrays))
        except Exception as error:
            raise self._unwritten(error) from error
        self._finisher = threading.Thread(
            target=self._finish, args=(step, description), name=f"checkpoint-{step}"
        )
        self._finisher.start()

    def wait(self) -> None:
        """Until the last checkpoint is on the disk.

        Raises:
            CheckpointError: it could not be written (a full disk, say).
        """
        if self._finisher is not None:
            self._finisher.join()
            self._finisher = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise self._unwritten(failure) from failure

    def close(self) -> None:
        """Waits, then ends the background writer."""
        if self._writer is None:
            return
        try:
            self.wait()
        finally:
            writer, self._writer = self._writer, None
            writer.close()

    def restore(self, template: PyTree) -> PyTree:
        """The newest whole checkpoint, or the template where there never was one.

        Args:
            template: tree of arrays with the shapes, types and shardings to restore.

        Raises:
            CheckpointError: checkpoints are there, or were, but none is whole; or the
                newest whole one has other leaves or another owner.
        """
        self.wait()
        chosen, failure = _NONE, None
        if self.primary:
            try:
                chosen = self._choose(template)
            except CheckpointError as error:
                chosen, failure = _FAILED, error
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            # What the others see of a shared disk may be older.
            sent = multihost_utils.broadcast_one_to_all(np.asarray(chosen, np.int32))
            chosen = int(sent)
        if chosen == _FAILED:
            raise failure or CheckpointError(
                f"process 0 found no usable checkpoint in {self.folder}; it says why"
            )
        if chosen == _NONE:
            return template
        restored = self._read(chosen, template)
        self._last = chosen
        return restored

    def _choose(self, template: PyTree) -> int:
        """The newest whole checkpoint's step, `_NONE` where there never was one."""
        self._clean()
        steps, problems = self.steps(), []
        for step in reversed(steps):
            try:
                manifest = _manifest(self._path(step), step)
            except (OSError, ValueError, KeyError, TypeError) as error:
                problems.append(f"{self._path(step)} is damaged ({error})")
                continue
            for problem in problems:
                _LOG.warning("%s; falling back to step %d", problem, step)
            self._check_origin(step, manifest, template)
            return step
        marker = self.folder / "LAST"
        if not steps and not marker.exists():
            return _NONE
        found = "; ".join(problems) or f"step {marker.read_text().strip()} is gone"
        raise CheckpointError(
            f"no whole checkpoint is left in {self.folder}: {found}. Restore one from "
            "a copy, or delete that folder to train this stage again from its start"
        )

    def _path(self, step: int) -> pathlib.Path:
        return self.folder / f"{step:08d}"

    def _writing(self, step: int) -> pathlib.Path:
        return self.folder / f".writing-{step:08d}"

    def _clean(self) -> None:
        """Puts in place what a kill kept from its rename, removes what is not whole."""
        if not self.primary or not self.folder.is_dir():
            return
        for pattern in (".writing-*", ".old-*"):
            for leftover in sorted(self.folder.glob(pattern)):
                self._adopt(leftover)
        for leftover in self.folder.glob("*.new"):
            _remove(leftover)

    def _adopt(self, leftover: pathlib.Path) -> None:
        name = leftover.name.rpartition("-")[2]
        try:
            _manifest(leftover, int(name))
        except (OSError, ValueError, KeyError, TypeError):
            _remove(leftover)
            return
        place = self.folder / name
        if place.exists():
            _remove(leftover)
        else:
            leftover.rename(place)

    def _finish(self, step: int, manifest: dict[str, Any]) -> None:
        """In a thread of its own: waits for Orbax, then puts the folder in place."""
        try:
            self._writer.wait_until_finished()
            if self.primary:
                self._publish(step, manifest)
            self._last = step
        except Exception as error:
            self._failure = error

    def _publish(self, step: int, manifest: dict[str, Any]) -> None:
        writing, final = self._writing(step), self._path(step)
        manifest = manifest | {"files": _files(writing)}
        write_text(writing / "manifest.json", json.dumps(manifest, indent=1))
        aside = self._aside(final) if final.exists() else None
        writing.rename(final)
        if aside is not None:
            _remove(aside)
        replace_text(self.folder / "LAST", f"{step}\n")
        older = [known for known in self.steps() if known < step]
        for surplus in older[: max(len(older) + 1 - self.keep, 0)]:
            _remove(self._aside(self._path(surplus)))

    def _unwritten(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"a checkpoint could not be written in {self.folder}: {error}; the last "
            f"whole one is {self.last}. Make room there, or check its permissions"
        )

    def _aside(self, path: pathlib.Path) -> pathlib.Path:
        # Renamed first: a kill in the midst must not leave half a checkpoint.
        old = self.folder / f".old-{path.name}"
        _remove(old)
        path.rename(old)
        return old

    def _check_origin(self, step: int, manifest: dict[str, Any], template: Any) -> None:
        path = self._path(step)
        remedy = "use another folder, or delete this one to train from the start"
        if manifest["owner"] != self.owner:
            raise CheckpointError(
                f"{path} belongs to the run with configuration {manifest['owner']!r}, "
                f"this one is {self.owner!r}; {remedy}"
            )
        there, here = manifest["leaves"], _flattened(template)[1]
        if there == here:
            return
        old = {leaf["path"]: leaf for leaf in there}
        new = {leaf["path"]: leaf for leaf in here}
        names = [n for n in old.keys() | new.keys() if old.get(n) != new.get(n)]
        shown = [
            f"{n}: {_described(old.get(n))} there, {_described(new.get(n))} here"
            for n in sorted(names)[:5]
        ]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise CheckpointError(
            f"{path} holds another state ({'; '.join(shown)}{more}); {remedy}"
        )

    def _read(self, step: int, template: PyTree) -> PyTree:
        import orbax.checkpoint as ocp

        arrays, _ = _flattened(template)
        targets = {name: _target(array) for name, array in arrays.items()}
        path = self._path(step)
        try:
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
                found: Mapping[str, Any] = reader.restore(
                    path / "state", args=ocp.args.StandardRestore(targets)
                )
        except Exception as error:
            raise CheckpointError(
                f"{path} is whole but Orbax cannot read it ({error}); was it written "
                "by another version?"
            ) from error
        leaves, structure = jax.tree.flatten(template)
        for number, leaf in enumerate(leaves):
            if (value := found.get(str(number))) is None:
                continue
            # Arrays of one device stay uncommitted, as they were before the kill.
            value = jax.device_put(value) if isinstance(value, np.ndarray) else value
            if is_key(leaf):
                value = jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf))
            leaves[number] = value
        return jax.tree.unflatten(structure, leaves)


def _manifest(path: pathlib.Path, step: int) -> dict[str, Any]:
    """The manifest, once every file has been found to agree with it."""
    if not (path / "manifest.json").is_file():
        raise ValueError("manifest.json is missing")
    manifest = json.loads((path / "manifest.json").read_text())
    if manifest["format"] != _FORMAT or manifest["step"] != step:
        raise ValueError(f"manifest of format {manifest['format']}")
    found = _files(path)
    for name, expected in manifest["files"].items():
        if name not in found:
            raise ValueError(f"{name} is missing")
        if found[name] != expected:
            raise ValueError(f"{name} is truncated or altered")
    return manifest


def _flattened(tree: PyTree) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Leaves by number and their kinds (Orbax takes no typed keys, no empty arrays)."""
    arrays, kinds = {}, []
    for number, (path, leaf) in enumerate(
        jax.tree_util.tree_flatten_with_path(tree)[0]
    ):
        kind: dict[str, Any] = {"path": jax.tree_util.keystr(path)}
        if is_key(leaf):
            kind["key"] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        if not isinstance(leaf, jax.Array):
            leaf = jnp.asarray(leaf)
        kinds.append(kind | {"dtype": leaf.dtype.name, "shape": list(leaf.shape)})
        if leaf.size:
            arrays[str(number)] = leaf
    return arrays, kinds


def _target(array: jax.Array) -> Any:
    if len(array.sharding.device_set) == 1 and not array.committed:
        return np.empty(array.shape, array.dtype)
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _described(kind: dict[str, Any] | None) -> str:
    if kind is None:
        return "nothing"
    shape = ", ".join(map(str, kind["shape"]))
    prefix = f"{kind['key']} key " if "key" in kind else ""
    return f"{prefix}{kind['dtype']}[{shape}]"


def _files(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, its manifest left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != "manifest.json":
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
