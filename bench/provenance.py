"""When a result was made, and at which commit of the repository that the command was given in."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime


def now() -> str:
    """The time, UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def commit() -> str | None:
    """The commit that the working folder is at, `+ changes` where tracked files differ; None outside a repository."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return None
    return head + (" + changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None  # no git, no repository, or one without a commit
    return done.stdout.strip("\n")
