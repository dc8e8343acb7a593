"""What a bug report and a stored result need to know: the machine, and the commit."""

import pathlib
import subprocess
from typing import Any


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
