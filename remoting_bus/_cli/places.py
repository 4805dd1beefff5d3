"""Where the bus is: an option, wherever it was said, or the master started last.

The nearest that says anything decides, so that no command ever speaks to two buses. It
must not connect to any. `settings` is where options come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from remoting_bus._remote.join import JoinToken

from .failures import Wrong
from .record import latest
from .settings import Said, as_said, config_path

__all__ = ["REACH_TIMEOUT", "Common", "Place", "find", "nearest"]

URL_HELP = (
    "The bus, or a join token. Without it: REMOTING_BUS_URL, the file config.toml, or "
    "the master last started on this machine."
)

DEFAULT_NAMESPACE = "default"

REACH_TIMEOUT = 10.0
"""Seconds to reach the bus, where no --timeout is given: people wait no longer."""


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options that every command has.

    Attributes:
        url: The bus, or a join token.
        namespace: The fleet.
        timeout: Seconds to wait for the bus and the answer.
        as_json: Write JSON, for programs.
    """

    url: Annotated[
        str | None, Parameter(name="--url", help=URL_HELP, converter=as_said)
    ] = None
    namespace: Annotated[
        str | None, Parameter(name="--namespace", converter=as_said)
    ] = None
    timeout: Annotated[float | None, Parameter(name="--timeout")] = None
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", show_default=False)
    ] = False

    @property
    def patience(self) -> float:
        """Seconds to reach the bus, and an agent."""
        return REACH_TIMEOUT if self.timeout is None else self.timeout

    def place(self) -> Place:
        """Find the bus.

        Raises:
            Wrong: Nothing says where it is, or what says so cannot be understood.
        """
        return find(self.url, self.namespace)


@dataclass(frozen=True)
class Place:
    """A bus and a fleet on it.

    Attributes:
        source: Who said so, for messages.
    """

    urls: tuple[str, ...]
    namespace: str
    source: str


def nearest(*said: str | None) -> str | None:
    """Return the one of several words for the bus that was said nearest.

    Raises:
        Wrong: Two were said in the same place.
    """
    words = sorted(filter(None, said), key=_rank)
    if len(words) > 1 and _rank(words[0]) == _rank(words[1]):
        raise Wrong(
            f"{_source(words[0])} and {_source(words[1])} both name the bus: give one"
        )
    return words[0] if words else None


def find(url: str | None, namespace: str | None) -> Place:
    """Find the bus.

    Args:
        url: A URL, or a join token. None means the master last started here.
        namespace: The fleet. A token brings its own, unless this was said as near.

    Raises:
        Wrong: Nothing says where it is, or what says so cannot be understood.
    """
    if url:
        return _place(url, namespace)
    record = latest()
    if record is not None:
        fleet = namespace or record.namespace
        return Place(record.urls, fleet, "the master started here")
    raise Wrong(
        "no bus is known: give --url, set REMOTING_BUS_URL, write url into "
        f"{config_path()}, or start one with `remoting-bus master`"
    )


def _place(url: str, namespace: str | None) -> Place:
    source = _source(url)
    if "://" in url:
        return Place((str(url),), namespace or DEFAULT_NAMESPACE, source)
    try:
        token = JoinToken.parse(url)
    except ValueError as error:
        raise Wrong(f"{source} is neither a URL nor a join token: {error}") from None
    if namespace and _rank(namespace) <= _rank(url):
        return Place(token.urls, namespace, source)
    return Place(token.urls, token.namespace, source)


def _rank(word: str) -> int:
    return word.rank if isinstance(word, Said) else 0


def _source(word: str) -> str:
    return word.source if isinstance(word, Said) else "--url"
