"""`remoting-bus call`: one function of one agent."""

from __future__ import annotations

import json
from typing import Annotated, Any

from cyclopts import Parameter

from remoting_bus._loop import run

from .output import Output, as_text
from .places import Common
from .session import reach

__all__ = ["call"]


def call(
    agent: str,
    function: str,
    /,
    *args: Annotated[str, Parameter(allow_leading_hyphen=True)],
    traceback: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    common: Common | None = None,
) -> None:
    """Call a function of an agent and print what it returns.

    Args:
        agent: Its name.
        function: module:function, or the name that the agent gave it.
        args: Each as JSON where it is JSON, else as the string that it is.
        traceback: If it raises, show where.
        common: Where the bus is.
    """
    common = common or Common()
    output = Output(as_json=common.as_json)
    values = [as_argument(each) for each in args]
    try:
        result = run(_call, common, agent, function, values)
    except Exception as error:
        if traceback:
            # The far side's comes with the exception as a note.
            for note in getattr(error, "__notes__", ()):
                output.note(note)
        raise
    if output.as_json:
        output.data(result)
    elif result is not None:
        output.line(as_text(result))


async def _call(common: Common, agent: str, function: str, args: list[Any]) -> Any:
    async with reach(common) as master:
        handle = master.agent(agent).using(timeout=common.timeout)
        return await handle.call(function, *args)


def as_argument(text: str) -> Any:
    """Return what a word of the command line means: JSON, else itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
