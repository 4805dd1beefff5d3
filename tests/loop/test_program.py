"""`run`, in processes of their own: signals, status, clean-up."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

import remoting_bus._loop as loop

PROGRAM = """
import anyio, sys
from remoting_bus._loop import run

async def main(word):
    print(word, flush=True)
    try:
        await anyio.sleep_forever()
    finally:
        print("cleaned up", flush=True)

run(main, "ready")
"""


def test_it_returns_what_main_returns() -> None:
    """And passes its arguments."""

    async def main(a: int, b: int) -> int:
        return a + b

    assert loop.run(main, 20, 22) == 42


def test_it_raises_what_main_raises() -> None:
    """Itself, not a group of one."""

    async def main() -> None:
        raise LookupError("from main")

    with pytest.raises(LookupError, match="from main"):
        loop.run(main)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_cancels_main(number: signal.Signals, status: int) -> None:
    """It cleans up, and the status tells a supervisor why it ended."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    assert out == "cleaned up\n"
    assert process.returncode == status


DRAINING = """
import anyio, sys
from remoting_bus._loop import before_termination, run

async def main(returns):
    drained = anyio.Event()

    async def drain():
        print("draining", flush=True)
        await anyio.sleep(1000 if returns == "hangs" else 0)
        print("drained", flush=True)
        drained.set()
        return returns == "returns"

    with before_termination(drain):
        print("ready", flush=True)
        if returns == "returns":
            await drained.wait()
        else:
            await anyio.sleep_forever()

run(main, sys.argv[1])
"""


def ended(how: str, *signals: signal.Signals, program: str = DRAINING) -> list[object]:
    """Return what a program prints after these signals, and its status."""
    with subprocess.Popen(
        [sys.executable, "-c", program, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        said: list[object] = []
        for left, number in zip(range(len(signals))[::-1], signals, strict=True):
            process.send_signal(number)
            if left:  # two that wait at once are one
                said.append(process.stdout.readline().strip())
        said += process.stdout.read().split()
        return [*said, process.wait(10)]


def test_sigterm_drains_first() -> None:
    """Main returns by itself then, and nothing was interrupted."""
    assert ended("returns", signal.SIGTERM) == ["draining", "drained", 0]


def test_main_is_cancelled_when_all_has_drained() -> None:
    """What has nothing of its own to end by is cancelled, with SIGTERM's status."""
    assert ended("stays", signal.SIGTERM) == ["draining", "drained", 143]


def test_a_second_sigterm_does_not_wait() -> None:
    """Who asks twice means it."""
    assert ended("hangs", signal.SIGTERM, signal.SIGTERM) == ["draining", 143]


def test_sigint_does_not_drain() -> None:
    """A person at the keyboard wants it to end."""
    assert ended("returns", signal.SIGINT) == [-signal.SIGINT]


def test_a_closed_terminal_cancels_main() -> None:
    """So what it started elsewhere is ended, too."""
    # Whoever runs the tests may ignore it, and children inherit that.
    heeding = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n" + PROGRAM
    assert ended("ready", signal.SIGHUP, program=heeding) == ["cleaned", "up", 129]


def test_nohup_is_respected() -> None:
    """Whoever ignores SIGHUP means to go on."""
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + PROGRAM
    with subprocess.Popen(
        [sys.executable, "-c", ignoring],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "cleaned up\n"
        assert process.wait(10) == 143
