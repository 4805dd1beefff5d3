"""A user of the command line: folders of his own, programs that are ended with the test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

COMMAND = [sys.executable, "-m", "remoting_bus._cli"]

WAIT = 60.0
"""Seconds for a program to do anything, on a machine that has other things to do."""

FUNCTIONS = '''
import os
from pathlib import Path

import anyio

import remoting_bus as rb


@rb.command
def add(a: int, b: int) -> int:
    return a + b


@rb.command
def shout(text: str) -> str:
    return text.upper()


@rb.command
def fail() -> None:
    raise ValueError("no good")


@rb.command
async def pause(begun: str, go_on: str) -> str:
    """Tell by a file that it has begun; end when the other one is there."""
    Path(begun).write_text(str(os.getpid()))
    try:
        while not Path(go_on).exists():
            await anyio.sleep(0.01)
    except anyio.get_cancelled_exc_class():
        Path(go_on + ".cancelled").touch()
        raise
    return "done"
'''


@dataclass(frozen=True)
class User:
    """Runs commands with an environment of his own.

    Attributes:
        home: All of his folders are below it.
        environment: Of the commands.
    """

    home: Path
    environment: dict[str, str]

    @classmethod
    def at(cls, home: Path) -> User:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("REMOTING_BUS_", "XDG_"))
        }
        for name in ("runtime", "config", "state", "temporary", "work"):
            (home / name).mkdir(mode=0o700)
        (home / "work" / "functions.py").write_text(FUNCTIONS)
        own = {
            "XDG_RUNTIME_DIR": str(home / "runtime"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "TMPDIR": str(home / "temporary"),
            "COLUMNS": "200",
        }
        return cls(home, kept | own)

    @property
    def work(self) -> Path:
        """Where commands run, and find `functions`."""
        return self.home / "work"

    def run(
        self, *words: str, text: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*COMMAND, *words],
            input=text,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
            cwd=self.work,
            env=self.environment | environment,
        )

    @contextmanager
    def started(
        self, *words: str, **environment: str
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a command; kill it when left, if it has not ended."""
        process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.work,
            env=self.environment | environment,
        )
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()


def line_with(words: str, stream: IO[str] | None) -> str:
    """Read lines until one that has `words` in it."""
    assert stream is not None
    seen = []
    for line in stream:
        seen.append(line)
        if words in line:
            return line
    raise AssertionError(f"no line with {words!r} in {''.join(seen)!r}")


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User.at(tmp_path)


@dataclass(frozen=True)
class Fleet:
    """A user whose master and agent `web-1` run.

    Attributes:
        token: What the master prints for agents.
    """

    user: User
    token: str
    master: subprocess.Popen[str]
    agent: subprocess.Popen[str]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    user = User.at(tmp_path_factory.mktemp("fleet"))
    with ExitStack() as stack:
        yield start_fleet(user, stack)


def start_fleet(user: User, stack: ExitStack) -> Fleet:
    master = stack.enter_context(user.started("master"))
    token = line_with("--join", master.stdout).split()[3]
    agent = stack.enter_context(
        user.started(
            *("agent", "--join", token, "--name", "web-1"),
            *("--commands", "functions", "--labels", "web,linux"),
        )
    )
    line_with("has joined", agent.stdout)
    return Fleet(user, token, master, agent)
