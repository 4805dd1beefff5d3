"""The entry point: from the words of a command line to an exit status.

Owns what every command shares at its end: 0 it was done, 1 it failed, 2 it was asked
wrongly, 130 and 143 it was interrupted, and one line on standard error that says what to
do. It must not know what the commands do (`app`), nor which error means what
(`failures`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from cyclopts import CycloptsError
from rich.console import Console

from .app import make_app
from .failures import Finished, Wrong, describe
from .output import Output
from .settings import Settings

__all__ = ["INTERRUPTED", "main"]

INTERRUPTED = 130
"""128 + SIGINT, as a shell has it."""


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        tokens: The words after the program's name; those of this process by default.
    """
    words = list(sys.argv[1:] if tokens is None else tokens)
    output = Output(as_json=_wants_json(words))
    settings = Settings()
    # What the library has to say while it goes on: that it tries a bus again, say.
    logging.basicConfig(format="remoting-bus: %(message)s", level=logging.WARNING)
    try:
        return _run(words, settings)
    except Finished as end:
        return end.status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left (`| head`): nobody is there to be told.
        sys.stdout = None
        return 1
    except CycloptsError as error:
        said = str(error).strip().rstrip(".")
        _output(output, settings).failure(Wrong(f"{said}. See remoting-bus --help"))
        return 2
    except Exception as error:  # noqa: BLE001 - a program's last resort: one line
        failure = describe(error)
        _output(output, settings).failure(failure)
        return failure.status


def _run(words: list[str], settings: Settings) -> int:
    app = make_app(settings)
    result = app(
        words,
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
        error_console=Console(stderr=True),
    )
    return result if type(result) is int else 0


def _output(asked: Output, settings: Settings) -> Output:
    """Where an error goes: as it was asked for wherever that was, once it is known."""
    known = settings.as_json
    return asked if known is None else Output(as_json=known)


def _wants_json(words: list[str]) -> bool:
    """Whether errors are for programs: asked before the words are understood."""
    ours = words[: words.index("--")] if "--" in words else words
    return "--json" in ours
