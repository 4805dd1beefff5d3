"""Each example runs by itself, ends, and says what its page says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

SAID = {
    "agent_and_master": [
        "web-1 is joined",
        "{'to': 2, 'be': 2, 'or': 1, 'not': 1}",
        "there: [Errno 2] No such file or directory: '/no/such/folder'",
    ],
    "cancel": [
        "  there: stopped",
        "  here: CallTimeout, executed: unknown",
        "  here: CallCancelled",
    ],
    "gather": [
        "sensor-1 returned: 0.5",
        "sensor-4 returned: 2.0",
        "sensor-5 raised: 5 is too much",
    ],
    "stream": ["item 1", "item 5", "2 files in 10240 bytes of archive"],
}


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAID)


@pytest.mark.parametrize("name", sorted(SAID))
def test_example_says_what_it_shows(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    said = ended.stdout.splitlines()
    assert [line for line in SAID[name] if line not in said] == []
