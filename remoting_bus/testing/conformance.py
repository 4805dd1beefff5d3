"""The bus contract as tests that anybody can run against a driver: `check_backend`.

Owns how promises are run, timed and reported; `promises` and `log_promises` hold them,
one function each. It needs a broker that runs, and nothing of pytest. It must not know
any driver.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection

import anyio

from remoting_bus.bus import Backend

from . import log_promises as _log_promises  # noqa: F401 - fills PROMISES, after `promises`
from .probe import Probe
from .promise import PROMISES, Promise

__all__ = ["DEADLINE", "BrokenPromise", "check_backend"]

DEADLINE = 30.0
"""Seconds for one promise: several connections to a slow broker, and 2,000 messages."""


class BrokenPromise(AssertionError):
    """A driver does not do what `remoting_bus.bus.backend` promises.

    Attributes:
        promise: The promise's short name.
    """

    def __init__(self, promise: Promise, why: str) -> None:
        super().__init__(f"{promise.name}: {why}. Promised: {promise.text}")
        self.promise = promise.name


async def check_backend(
    backend: Backend,
    url: str,
    *,
    other_url: str | None = None,
    deadline: float = DEADLINE,
    promises: Collection[str] | None = None,
) -> None:
    """Try each promise of the bus contract on a driver and a broker that runs.

    Every check uses connections, names and a namespace of its own, so they may run
    beside other users of the broker.

    Args:
        backend: The driver.
        url: A URL of it that can be opened.
        other_url: Another way to the same broker, for the second of two peers: another
            host of a cluster, other credentials. None means `url`.
        deadline: Seconds for each promise.
        promises: Names of those to try; None means all, see `promise.PROMISES`.

    Raises:
        ExceptionGroup: Of one `BrokenPromise` for each promise that was not kept.
        ValueError: `promises` has a name that is none.
    """
    chosen = set(PROMISES if promises is None else promises)
    unknown = chosen - set(PROMISES)
    if unknown:
        raise ValueError(f"no such promise: {', '.join(sorted(unknown))}")
    broken = []
    for name, promise in PROMISES.items():
        if name in chosen:
            error = await _try(promise, backend, url, other_url or url, deadline)
            if error is not None:
                broken.append(error)
    if broken:
        names = ", ".join(error.promise for error in broken)
        raise ExceptionGroup(
            f"{type(backend).__name__} breaks {len(broken)} of {len(chosen)} promises: "
            f"{names}",
            broken,
        )


async def _try(
    promise: Promise, backend: Backend, url: str, other_url: str, deadline: float
) -> BrokenPromise | None:
    """Return how a promise was broken, or None."""
    probe = Probe(backend, url, other_url, f"check-{secrets.token_hex(6)}")
    try:
        with anyio.fail_after(deadline):
            await promise.check(probe)
    except TimeoutError as error:
        waited = f"it was not done within {deadline:g} s, {probe.progress}"
        return _broken(promise, waited, error)
    except Exception as error:  # noqa: BLE001 - whatever a driver raises is its answer
        cause = _single(error)
        if isinstance(cause, AssertionError):
            return _broken(promise, str(cause) or "an assertion failed", cause)
        return _broken(promise, f"{type(cause).__name__} was raised: {cause}", cause)
    return None


def _broken(promise: Promise, why: str, cause: BaseException) -> BrokenPromise:
    error = BrokenPromise(promise, why.rstrip("."))
    error.__cause__ = cause
    return error


def _single(error: Exception) -> Exception:
    """Return the first error of a group: the one that says most."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
