"""The folder of one run of an embedded server, and what becomes of old ones.

Each run has a folder of its own below the user's state folder, so several masters on one
machine never meet. The logs of the last runs stay; everything else goes with the run, or
with the next one if a run was killed. It must not know what the files are.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path

import platformdirs

__all__ = ["RUNS_KEPT", "RunFolder"]

RUNS_KEPT = 10
"""Folders of ended runs that are kept for their logs."""


class RunFolder:
    """A private folder that is locked while its run goes on.

    Attributes:
        path: Where it is; made by `make`.
    """

    def __init__(self) -> None:
        base = platformdirs.user_state_path("remoting_bus", appauthor=False)
        self._base = base / "embedded"
        self.path = self._base / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._lock: int | None = None

    def make(self) -> None:
        """Make it, and remove what runs before the last ones have left."""
        self.path.mkdir(mode=0o700, parents=True)
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        ended = sorted(self._ended(), key=_age)
        for folder in ended[:-RUNS_KEPT]:
            shutil.rmtree(folder, ignore_errors=True)

    def write(self, name: str, text: str) -> None:
        """Write a file that only this user can read."""
        path = self.path / name
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 - of a descriptor
            file.write(text)

    def leave(self, keep: Collection[Path]) -> None:
        """Remove everything but some logs, and all of it if there are none."""
        if self._lock is None:
            return
        os.close(self._lock)
        self._lock = None
        kept = 0
        for path in self.path.iterdir():
            if path in keep:
                kept += 1
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if not kept:
            shutil.rmtree(self.path, ignore_errors=True)

    def _ended(self) -> list[Path]:
        return [f for f in self._base.iterdir() if f != self.path and not _locked(f)]


def _locked(folder: Path) -> bool:
    """Whether its run goes on."""
    try:
        fd = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _age(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime
    return 0.0
