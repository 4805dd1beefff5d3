"""The names of the commands, and where each is.

Commands are imported when they are asked for. It must not know what they do.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from cyclopts import App

from .settings import COMMANDS, HELP, Settings

__all__ = ["make_app"]


def make_app(settings: Settings | None = None) -> App:
    """Return the command line, its options filled by `settings`."""
    settings = settings or Settings()
    app = App(
        name="remoting-bus",
        help="Run work on agents over a message bus.",
        version=_version,
        help_format="plaintext",
        help_epilogue=HELP,
        config=settings,
    )
    settings.root = app
    for name in COMMANDS:
        app.command(f"remoting_bus._cli.{name}_command:{name}", name=name)
    app.command("remoting_bus._cli.completion_command:completion", name="completion")
    return app


def _version() -> str:
    try:
        return version("remoting-bus")
    except PackageNotFoundError:  # run from a folder, and never installed
        return "unknown"
