"""One downloader at a time, as a child process whose progress is told."""

import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Sequence

from kljax.data.sources import Source

__all__ = ["Report", "run"]

POLL_SECONDS = 0.2
REPORT_SHARE = 0.1

Report = Callable[[str], None]


def run(
    command: Sequence[str],
    folder: pathlib.Path,
    pattern: str,
    source: Source,
    report: Report,
) -> list[str] | None:
    """Runs `command` in `folder` and tells how much of `source` has come.

    Args:
      command: the downloader and its arguments.
      folder: a private folder; it is also where the child keeps temporary files.
      pattern: what the arriving files are called, below `folder`.
      source: its `bytes` are what is expected.
      report: takes the lines.

    Returns:
      None when it ended well, else what it printed.
    """
    megabytes = source.bytes / 1e6
    log = folder / "download.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        try:
            told, pause = 0.0, 0.01
            while process.poll() is None:
                time.sleep(pause)
                pause = min(2 * pause, POLL_SECONDS)
                # The largest: a downloader copies a whole file to its last place.
                here = max(map(_size, folder.rglob(pattern)), default=0)
                here = min(here, source.bytes)
                if here / source.bytes >= told + REPORT_SHARE:
                    told = here / source.bytes
                    report(f"{source.name}: {here / 1e6:.1f} of {megabytes:.1f} MB")
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    if process.returncode == 0:
        return None
    return log.read_text("utf-8", "replace").splitlines()


def _size(file: pathlib.Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # renamed by the downloader since it was listed
        return 0
