"""A package with two small experiments, for tests of the command line and report."""

import importlib
import sys

import pytest

RING = '''"""One-step students that cover a ring.

Paper: nobody, "On rings".
"""

import dataclasses
import os
import signal
import struct
import time
import zlib

from experiments.harness import Claim, Figure, Results, Table, Verdict, bookkeeping
from kljax.errors import DataError

PAPER = "Nobody, On rings (2025)"


@dataclasses.dataclass(frozen=True)
class Teacher:
    steps: int = 3
    """Training steps; paper: 380K."""
    augment: bool = True


@dataclasses.dataclass(frozen=True)
class Config:
    teacher: Teacher = Teacher()
    seeds: tuple[int, ...] = (0, 1)
    trouble: str = ""
    seed: int = 0
    log_every: int = bookkeeping(10)

    def __post_init__(self):
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


PRESETS = {
    "smoke": Config(teacher=Teacher(steps=1)),
    "cpu": Config(),
    "gpu": Config(teacher=Teacher(steps=9)),
}
CLAIMS = (
    Claim("T1", "It keeps up & more: `a|b` <c>.", "table 2", "ratio", "<= 1.1", "1.07"),
    Claim("T2", "The term helps.", "table 10", "difference", "< 0"),
    Claim("T3", "At scale.", "ours", "rank correlation", "< 0"),
)


def png(shade):
    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", 4, 2, 8, 0, 0, 0, 0)
    rows = bytes([0, shade, 1, 2, 3] * 2)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
    return b"\\x89PNG\\r\\n\\x1a\\n" + body + chunk(b"IEND", b"")


def run(config, *, workdir, progress):
    marker = workdir / "stage"
    if config.trouble == "interrupt" and not marker.exists():
        marker.write_text("half")
        raise KeyboardInterrupt("after step 5")
    if config.trouble == "terminate" and not marker.exists():
        marker.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)  # the handler runs before this returns
    if config.trouble == "data":
        raise DataError("digits.npz is missing: pass --data.path")
    if config.trouble == "bug":
        raise ZeroDivisionError("one over zero")
    progress.task("teacher", config.teacher.steps).update(config.teacher.steps)
    (workdir / "figures" / "curve.png").write_bytes(png(config.teacher.steps))
    rows = (("teacher", 35, 0.58123), ("student", 1, float("nan")))
    if config.trouble == "figure":
        (workdir / "figures" / "curve.png").unlink()
    return Results(
        metrics={"fid": 0.5, "data/synthetic": config.teacher.steps == 1},
        tables=(Table("Distances | all", ("model", "calls", "FID"), rows, "Of `n`."),),
        figures=(Figure("curve.png", 'Curves of "both" <models>.'),),
        verdicts={
            "T1": Verdict("0.80", True, "0.76 to 0.84"),
            "T2": Verdict("0.1", False, note="worst seed 0.2"),
            "T3": Verdict("", None, note="needs the gpu preset"),
        },
    )
'''

BROKEN = '''"""Cannot be imported."""

CLAIMS = ()
run = 1 / 0
'''

HELPER = '''"""No experiment: it has claims alone."""

CLAIMS = ()
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of the fake package; the working directory is a temporary one."""
    folder = tmp_path / "fake_experiments"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Fakes."""\n')
    (folder / "ring.py").write_text(RING)
    (folder / "claims_of_ring.py").write_text(HELPER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield "fake_experiments"
    for name in [name for name in sys.modules if name.startswith("fake_experiments")]:
        del sys.modules[name]


@pytest.fixture
def broken(package, tmp_path):
    """The fake package with one more module, which raises when it is imported."""
    (tmp_path / package / "broken.py").write_text(BROKEN)
    return package
