"""Progress: silent, lines without a terminal, a bar with one."""

import re
import sys

from kljax.training import progress


def test_silence(capsys):
    task = progress.silent().task("teacher", 3)
    task.update(1, loss=0.5, rate=2.0)
    task.close()
    assert capsys.readouterr() == ("", "")


def test_lines_come_at_intervals_and_at_the_end(capsys):
    task = progress.rich_progress(interval=3600).task("teacher", 10_000)
    for step in range(1, 10_001):
        task.update(step, loss=0.25, rate=50.0)
    task.close()
    assert capsys.readouterr().err == (
        "teacher: 10000/10000, loss 0.25, 50 steps/s, 0:00 left\n"
    )
    task = progress.rich_progress(interval=0).task("student", 200_000)
    task.update(20_000, loss=1 / 3, rate=50.0)
    assert "student: 20000/200000, loss 0.3333, 50 steps/s, 1:00:00 left" in (
        capsys.readouterr().err
    )
    task.update(20_001)
    assert capsys.readouterr().err == "student: 20001/200000\n"


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    shown = progress.rich_progress()
    teacher, student = shown.task("teacher", 10), shown.task("student", 10)
    teacher.update(5, loss=0.125, rate=2.0)
    teacher.close()
    student.update(10, loss=0.5, rate=4.0)
    student.close()
    student.close()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert re.search(r"teacher .* 5/10 .*loss 0\.125 +2 steps/s.* 0:0[23] left", text)
    assert re.search(r"student .*10/10", text)
