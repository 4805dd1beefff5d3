"""Options that were not given: from variables of the environment, and from a file.

Owns the order: the command line, `REMOTING_BUS_<COMMAND>_<OPTION>`,
`REMOTING_BUS_<OPTION>`, the table of the command in the file, the file's top. Each fills
what the ones before left open; what one of them says wrongly is refused by name. Words
without a name of their own, such as the agent of `run`, come from the command line only.
It must not know what an option means.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs
from cyclopts import App, ArgumentCollection, Token
from cyclopts.config import Dict, Env

from .failures import Wrong

__all__ = [
    "COMMANDS",
    "CONFIG_VARIABLE",
    "HELP",
    "Said",
    "Settings",
    "as_said",
    "config_path",
]

COMMANDS = ("master", "agent", "ps", "run", "call", "cp", "doctor", "demo")
"""Those that have options, and may have a table in the file."""

PREFIX = "REMOTING_BUS_"

CONFIG_VARIABLE = "REMOTING_BUS_CONFIG"
"""Another path for the file, which is `remoting-bus/config.toml` in the user's folder."""

HELP = (
    "Each option can also come from the environment (--timeout: REMOTING_BUS_TIMEOUT, or "
    "REMOTING_BUS_RUN_TIMEOUT for one command) or from the file config.toml, which "
    "REMOTING_BUS_CONFIG names: timeout = 30, or the same in a table [run]."
)

_SOURCES = (
    "cli",
    "the environment, for this command",
    "the environment",
    "the table of this command",
    "config.toml",
)
"""What messages call them, the nearest first."""

_FILE = 3
"""From here on they are parts of the file."""


class Said(str):
    """A word with who said it.

    Attributes:
        source: For messages.
        rank: 0 is the command line; what is nearer has less.
    """

    source: str
    rank: int

    @classmethod
    def by(cls, text: str, source: str, rank: int = 0) -> Said:
        """Return `text`, said by `source`."""
        made = cls(text)
        made.source, made.rank = source, rank
        return made


def as_said(_: Any, tokens: Sequence[Token]) -> Said:
    """Convert an option for cyclopts, and keep where it comes from."""
    token = tokens[-1]
    rank = next(i for i, name in enumerate(_SOURCES) if token.source.startswith(name))
    keyword = token.keyword or "the URL"
    if rank >= _FILE:
        keyword = f"{keyword.strip('[]')} in {token.source}"
    return Said.by(token.value, keyword, rank)


def config_path() -> Path:
    """Return where the file is; it need not exist."""
    given = os.environ.get(CONFIG_VARIABLE)
    if given:
        return Path(given).expanduser()
    folder = platformdirs.user_config_path("remoting-bus", appauthor=False)
    return folder / "config.toml"


class Settings:
    """Fills the options that the command line left open; cyclopts calls it.

    Attributes:
        root: The whole command line, to know what the other commands take.
        as_json: Whether output is for programs, once that is known.
    """

    def __init__(self) -> None:
        self.root: App | None = None
        self.as_json: bool | None = None

    def __call__(
        self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection
    ) -> None:
        """Append what the environment and the file say.

        Raises:
            Wrong: The file cannot be read, or says what it should not.
        """
        options = _options(arguments)
        _, variable, any_variable, table, top = _SOURCES
        Env(PREFIX, source=variable)(app, commands, options)
        _forget_empty(options)
        Env(PREFIX, source=any_variable, command=False)(app, commands, options)
        _forget_empty(options)
        path = config_path()
        tables, plain = _split(_read(path), path)
        self._check(tables, plain, options, path)
        Dict(tables, source=f"{table} in {path}")(app, commands, options)
        Dict(
            plain,
            source=f"{top} ({path})",
            use_commands_as_keys=False,
            allow_unknown=True,
        )(app, commands, options)
        json = options.get("--json", None)
        if json is not None and json.tokens:
            self.as_json = bool(json.convert())

    def _check(
        self,
        tables: dict[str, dict[str, Any]],
        plain: dict[str, Any],
        options: ArgumentCollection,
        path: Path,
    ) -> None:
        """Refuse what no command would ever read."""
        assert self.root is not None
        for name in tables:
            if name not in COMMANDS:
                raise Wrong(f"{path}: [{name}] is no command: {', '.join(COMMANDS)}")
        for key in plain:
            if _knows(options, key):
                continue
            # Imports all commands; only where the file says what is for others.
            if not any(_knows(self._options_of(name), key) for name in COMMANDS):
                raise Wrong(f"{path}: no command has an option {key!r}")

    def _options_of(self, command: str) -> ArgumentCollection:
        assert self.root is not None
        return _options(self.root[command].assemble_argument_collection())


def _options(arguments: ArgumentCollection) -> ArgumentCollection:
    options = arguments.copy()
    options[:] = [each for each in arguments if each.name.startswith("--")]
    return options


def _knows(options: ArgumentCollection, key: str) -> bool:
    return options.get(f"--{key.replace('_', '-')}", None) is not None


def _forget_empty(options: ArgumentCollection) -> None:
    """An empty variable says nothing, as `NAME= command` is meant."""
    for each in options:
        each.tokens = [
            token for token in each.tokens if token.value or token.source == "cli"
        ]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if os.environ.get(CONFIG_VARIABLE):
            raise Wrong(f"{path}: no such file ({CONFIG_VARIABLE} names it)") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Wrong(f"{path} cannot be read: {error}") from None


def _split(
    data: dict[str, Any], path: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the tables and what stands above them, each value a plain one."""
    tables = {
        name: {key: _plain(key, each, path) for key, each in value.items()}
        for name, value in data.items()
        if isinstance(value, dict)
    }
    top = {
        key: _plain(key, value, path)
        for key, value in data.items()
        if key not in tables
    }
    return tables, top


def _plain(key: str, value: Any, path: Path) -> Any:
    """Return a value as the command line would have it: several hosts are one URL."""
    if key == "url":
        urls = [value] if isinstance(value, str) else value
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            raise Wrong(f"{path}: url must be a string or a list of strings")
        return ",".join(urls)
    if isinstance(value, dict):
        raise Wrong(f"{path}: {key} must be a plain value, and is a table")
    return value
