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
