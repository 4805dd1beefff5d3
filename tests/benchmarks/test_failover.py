"""Three nodes of each broker under load, of which the leading one is killed.

The other faults take minutes: `make clusters` has them all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "bus",
    [
        pytest.param(bus, marks=pytest.mark.broker(bus))
        for bus in ("nats", "amqp", "kafka")
    ],
)
def test_a_killed_leader_loses_nothing(bus: str) -> None:
    """Each call has run once and returned its result; the file is as it was."""
    words = ["--json", "run", "failover", "--bus", bus, "--fault", "kill"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words, "--size", "32"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(done.stdout)
    assert record["wrong"] == []
    assert record["calls"] > 100
