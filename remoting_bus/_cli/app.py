"""The names of the commands, and where each is.

Commands are imported when they are asked for. It must not know what they do.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from cyclopts import App

__all__ = ["make_app"]

COMMANDS = ("master", "agent", "ps", "run", "call", "cp", "doctor", "demo")


def make_app() -> App:
    """Return the command line."""
    app = App(
        name="remoting-bus",
        help="Run work on agents over a message bus.",
        version=_version,
        help_format="plaintext",
    )
    for name in COMMANDS:
        app.command(f"remoting_bus._cli.{name}_command:{name}", name=name)
    app.command("remoting_bus._cli.completion_command:completion", name="completion")
    return app


def _version() -> str:
    try:
        return version("remoting-bus")
    except PackageNotFoundError:  # run from a folder, and never installed
        return "unknown"
