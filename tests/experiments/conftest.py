"""A package with small papers, for tests of the command line and the report."""

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

import numpy as np

from experiments import kit
from experiments.harness import Figure, bookkeeping
from kljax.errors import DataError

PAPER = "Nobody, On rings (2025)"


@dataclasses.dataclass(frozen=True)
class Teacher:
    steps: int = 3
    """Training steps; paper: 380K."""
    augment: bool = True


@dataclasses.dataclass(frozen=True)
class Config(kit.Settings):
    teacher: Teacher = Teacher()
    widths: tuple[int, ...] = (0, 1)
    trouble: str = ""
    log_every: int = bookkeeping(10)


PRESETS = {
    "smoke": Config(teacher=Teacher(steps=1)),
    "cpu": Config(),
    "gpu": Config(teacher=Teacher(steps=9)),
}


def rank(found):
    raise kit.Missing("needs the gpu preset")


CLAIMS = (
    kit.Claim("T1", "It keeps up & more: `a|b` <c>.", "table 2", lambda found: found,
              kit.at_most(1.1), "ratio", paper="1.07"),
    kit.Claim("T2", "The term helps.", "table 10",
              lambda found: kit.Noted(0.1, "worst seed 0.2"), kit.below(0),
              "difference"),
    kit.Claim("T3", "At scale.", "a talk", rank, kit.below(0), "rank", ours=True),
)


def png(shade):
    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", 4, 2, 8, 0, 0, 0, 0)
    rows = bytes([0, shade, 1, 2, 3] * 2)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
    return b"\\x89PNG\\r\\n\\x1a\\n" + body + chunk(b"IEND", b"")


def run(study):
    config, marker = study.config, study.folder.path / "stage"
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
    with study.task("teacher", config.teacher.steps) as note:
        note(config.teacher.steps)
    if config.trouble != "figure":
        (study.pictures / "curve.png").write_bytes(png(config.teacher.steps))
    study.figures.append(Figure("curve.png", 'Curves of "both" <models>.'))
    rows = (("teacher", 35, 0.58123), ("student", 1, float("nan")))
    study.table("Distances | all", ("model", "calls", "FID"), rows, "Of `n`.")
    study.metrics |= {"fid": 0.5, "data/synthetic": config.teacher.steps == 1}
    return kit.Estimate((np.array([0.78, 0.8, 0.82]),))
'''

BROKEN = '''"""Cannot be imported."""

CLAIMS = ()
run = 1 / 0
'''

HELPER = '''"""No experiment, but what several share."""

CLAIMS = ()
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of the fake package; the working directory is a temporary one."""
    folder = tmp_path / "fake_experiments"
    folder.mkdir()
    papers = folder / "papers"
    papers.mkdir()
    for place in (folder, papers):
        (place / "__init__.py").write_text('"""Fakes."""\n')
    (papers / "ring.py").write_text(RING)
    (papers / "_claims_of_ring.py").write_text(HELPER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield "fake_experiments"
    for name in [name for name in sys.modules if name.startswith("fake_experiments")]:
        del sys.modules[name]


@pytest.fixture
def broken(package, tmp_path):
    """The fake package with one more module, which raises when it is imported."""
    (tmp_path / package / "papers" / "broken.py").write_text(BROKEN)
    return package
