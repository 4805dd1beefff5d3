"""What holds for every test: brokers that may be absent, blocking calls, leftovers.

Rules of the house, each where it is checked:

- `@pytest.mark.broker("nats")`: the test starts that broker. Where it cannot be had the
  test is skipped and named in the summary.
- Under `CI=true` nothing is skipped: what could not run is an error.
- `no_blocking`: a fixture under which a blocking call of ours inside a running asyncio
  loop raises. It is asked for (`pytestmark = pytest.mark.usefixtures("no_blocking")`)
  and not given to all, as brokers and programs are started by blocking calls.
- When all is done no child process of the tests may be alive.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator

import blockbuster
import hypothesis
import psutil
import pytest

from remoting_bus.testing.brokers import LocalKafka, LocalRabbitMQ

CI = os.environ.get("CI", "").lower() == "true"

LEFTOVER_GRACE = 5.0
"""Seconds that children of the last test have to end: a broker's clean stop takes one."""

LEFT = pytest.StashKey[list[str]]()

# Derandomized: a change is judged by the same examples as the one before it. Bounded by
# count, as a deadline on a shared machine measures the neighbours.
hypothesis.settings.register_profile(
    "ci", derandomize=True, max_examples=100, deadline=None, database=None
)
hypothesis.settings.register_profile("dev", max_examples=50, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if CI else "dev")
)


def _find_nats() -> None:
    from remoting_bus_nats.server import find_server

    find_server()


def _find_kafka() -> None:
    from remoting_bus.testing.brokers.kafka_files import find_jars

    find_jars()


def _find_rabbitmq() -> None:
    from remoting_bus.testing.brokers.rabbitmq import find_rabbitmq

    find_rabbitmq()


BROKERS: dict[str, Callable[[], object]] = {
    "amqp": _find_rabbitmq,
    "kafka": _find_kafka,
    "nats": _find_nats,
}
"""For each name of the marker what raises FileNotFoundError if it cannot be had."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose broker is not on this machine."""
    for mark in item.iter_markers("broker"):
        for name in mark.args:
            if name not in BROKERS:
                raise pytest.UsageError(
                    f"{item.nodeid}: no broker {name!r}; known are {sorted(BROKERS)}"
                )
            try:
                BROKERS[name]()
            except FileNotFoundError as absent:
                pytest.skip(f"needs the broker {name}: {absent}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[
    None, pytest.TestReport, pytest.TestReport
]:
    """Turn a skip into an error where everything has to run."""
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"could not run, and CI=true: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[
    None, pytest.CollectReport, pytest.CollectReport
]:
    """Turn a skipped module into an error where everything has to run."""
    report = yield
    if CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"could not run, and CI=true: {_reason(report)}"
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    longrepr = report.longrepr
    return longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what could not run, and what was left behind."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section("could not run")
        for report in skipped:
            terminalreporter.write_line(f"{report.nodeid}: {_reason(report)}")
    left = terminalreporter.config.stash.get(LEFT, [])
    if left:
        terminalreporter.section("processes left behind")
        for line in left:
            terminalreporter.write_line(line)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a child process of the tests outlives them."""
    children = psutil.Process().children(recursive=True)
    _, alive = psutil.wait_procs(children, timeout=LEFTOVER_GRACE)
    left = []
    for process in alive:
        try:
            left.append(f"{process.pid}: {' '.join(process.cmdline())}")
        except psutil.Error:
            continue  # it ended while we asked
    if left:
        session.config.stash[LEFT] = left
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def shared_kafka() -> Iterator[LocalKafka]:
    """One Kafka broker for the whole run, as a JVM costs seconds; not to be harmed."""
    with LocalKafka() as running:
        yield running


@pytest.fixture(scope="session")
def shared_rabbitmq() -> Iterator[LocalRabbitMQ]:
    """One RabbitMQ node for the whole run, as it starts for seconds; not to be harmed."""
    with LocalRabbitMQ() as running:
        yield running


@pytest.fixture
def no_blocking() -> Iterator[None]:
    """Raise `BlockingError` when the library blocks inside a running asyncio loop.

    Only calls that the library makes count: a test may read a file as it likes, and the
    parts that start brokers are made of blocking calls on purpose.
    """
    with blockbuster.blockbuster_ctx(
        scanned_modules=["remoting_bus"], excluded_modules=["remoting_bus.testing"]
    ):
        yield
