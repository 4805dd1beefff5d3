"""Bring the brokers that tests start: `make brokers`, and `make test` before it tests.

One bringer a broker: what finds it, and what brings it. Nothing is started, and nothing
is done for a broker that is there. With `--before-tests` a broker that cannot be had is
one line that says what will not be tested and what would bring it, and no failure, except
under CI=true.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from remoting_bus.testing.brokers.kafka_files import bring_kafka, find_jars
from remoting_bus.testing.brokers.rabbitmq import find_rabbitmq

CI = os.environ.get("CI", "").lower() == "true"

POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian's: whether a package may start what it installs; 101 forbids it."""

APT_LIMIT = 600.0
"""Seconds for apt: 30 MB with Erlang, from wherever it is configured to take them."""


@dataclass(frozen=True)
class Bringer:
    """One broker.

    Attributes:
        find: Raises FileNotFoundError if it is not there.
        bring: Brings it; raises OSError, or RuntimeError with the cause.
        by_hand: The command that would bring it.
    """

    name: str
    find: Callable[[], object]
    bring: Callable[[], object]
    by_hand: str


def bring_rabbitmq() -> None:
    """Install Debian's package, as root, without starting its service."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise RuntimeError("it comes by apt on Debian, and that needs root")
    with _nothing_starts():
        _apt("update", "-q")  # it may fail for sources that we do not need
        done = _apt("install", "-y", "-q", "--no-install-recommends", "rabbitmq-server")
    if done.returncode:
        raise RuntimeError(done.stderr or done.stdout)


def _apt(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", *arguments],  # noqa: S607 - wherever Debian has it
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=APT_LIMIT,
        check=False,
    )


@contextmanager
def _nothing_starts() -> Iterator[None]:
    """Forbid packages to start services, where nobody else has a say in it."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink()


BRINGERS = [
    Bringer(
        "RabbitMQ",
        find_rabbitmq,
        bring_rabbitmq,
        "apt-get install rabbitmq-server (as root)",
    ),
    Bringer("Kafka", find_jars, bring_kafka, "make brokers"),
]


def bring_all(bringers: list[Bringer], *, before_tests: bool, ci: bool) -> int:
    """Bring what is missing; the exit status."""
    missing = 0
    for each in bringers:
        try:
            each.find()
            continue
        except FileNotFoundError:
            pass
        try:
            each.bring()
            each.find()
            print(f"{each.name} is here now")
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            missing += 1
            what = "tests on it do not run" if before_tests else "it is not here"
            why = (str(error).strip() or type(error).__name__).splitlines()[-1]
            print(f"{each.name}: {what} ({why}); to bring it: {each.by_hand}")
    return 1 if missing and (ci or not before_tests) else 0


def main() -> int:
    """Read the command line, and do it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before-tests", action="store_true")
    options = parser.parse_args()
    return bring_all(BRINGERS, before_tests=options.before_tests, ci=CI)


if __name__ == "__main__":
    sys.exit(main())
