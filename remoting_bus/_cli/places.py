"""Where the bus is: an option, the environment, a file, or the master started last.

Owns the order in which they are asked; the first that says anything decides, so that no
command ever speaks to two buses. It must not connect to any.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import platformdirs
from cyclopts import Parameter

from remoting_bus._remote.join import JoinToken

from .failures import Wrong
from .record import latest

__all__ = [
    "CONFIG_VARIABLE",
    "NAMESPACE_VARIABLE",
    "REACH_TIMEOUT",
    "URL_VARIABLE",
    "Common",
    "Place",
]

URL_VARIABLE = "REMOTING_BUS_URL"
NAMESPACE_VARIABLE = "REMOTING_BUS_NAMESPACE"
CONFIG_VARIABLE = "REMOTING_BUS_CONFIG"
"""Another path for the file, which is `remoting-bus/config.toml` in the user's folder."""

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
        url: The bus, or a join token; see `find` for where it is looked for without.
        namespace: The fleet.
        timeout: Seconds to wait for the bus and the answer.
        as_json: Write JSON, for programs.
    """

    url: Annotated[str | None, Parameter(name="--url", help=URL_HELP)] = None
    namespace: Annotated[str | None, Parameter(name="--namespace")] = None
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


def find(
    url: str | None,
    namespace: str | None,
    environment: Mapping[str, str] = os.environ,
) -> Place:
    """Find the bus.

    Raises:
        Wrong: Nothing says where it is, or what says so cannot be understood.
    """
    config = _config(environment)
    fleet = namespace or environment.get(NAMESPACE_VARIABLE) or config.get("namespace")
    if fleet is not None and not isinstance(fleet, str):
        raise Wrong("namespace in config.toml must be a string")
    if url:
        return _place(url, fleet, "--url")
    if environment.get(URL_VARIABLE):
        return _place(environment[URL_VARIABLE], fleet, URL_VARIABLE)
    if config.get("url"):
        return _place(config["url"], fleet, "config.toml")
    record = latest()
    if record is not None:
        return Place(record.urls, fleet or record.namespace, "the master started here")
    raise Wrong(
        "no bus is known: give --url, set REMOTING_BUS_URL, write url into "
        f"{_config_path(environment)}, or start one with `remoting-bus master`"
    )


def _place(said: Any, fleet: str | None, source: str) -> Place:
    urls = [said] if isinstance(said, str) else said
    if not isinstance(urls, list) or not all(isinstance(each, str) for each in urls):
        raise Wrong(f"url in {source} must be a string or a list of strings")
    if len(urls) == 1 and "://" not in urls[0]:
        try:
            token = JoinToken.parse(urls[0])
        except ValueError as error:
            raise Wrong(
                f"{source} is neither a URL nor a join token: {error}"
            ) from None
        return Place(token.urls, fleet or token.namespace, source)
    return Place(tuple(urls), fleet or DEFAULT_NAMESPACE, source)


def _config_path(environment: Mapping[str, str]) -> Path:
    given = environment.get(CONFIG_VARIABLE)
    if given:
        return Path(given).expanduser()
    return (
        platformdirs.user_config_path("remoting-bus", appauthor=False) / "config.toml"
    )


def _config(environment: Mapping[str, str]) -> dict[str, Any]:
    path = _config_path(environment)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if CONFIG_VARIABLE in environment:
            raise Wrong(f"{path}: no such file ({CONFIG_VARIABLE} names it)") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Wrong(f"{path} cannot be read: {error}") from None
