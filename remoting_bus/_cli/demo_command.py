"""`remoting-bus demo`: the main job on this machine, in less than a minute."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from remoting_bus._loop import run

from .output import Output

__all__ = ["demo"]


def demo(
    *,
    bus: str | None = None,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", show_default=False)
    ] = False,
) -> int:
    """Show the main job: a bus, a master and three agents, each a process.

    Args:
        bus: The URL of a bus of yours, or the name of a broker that is installed and
            started for the demo (amqp, kafka); without it a NATS server is started.
        as_json: Write one JSON document in the end, for programs.
    """
    from .demo.script import play
    from .demo.show import Show

    show = Show(Output(as_json=as_json))
    run(play, bus, show)
    return 1 if show.failed else 0
