"""`remoting-bus cp`: files and folders to an agent, and from one.

Owns how the two ends are written. It must not know how files travel: they are verified,
resumed, and appear under their names only when whole (`_transfer`).
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from cyclopts import Parameter

from remoting_bus._loop import clock, run
from remoting_bus._master import RemoteAgent
from remoting_bus._transfer import Transfer

from .failures import Wrong
from .output import Output
from .places import Common
from .session import reach

__all__ = ["cp"]

_REMOTE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_-]*):(.+)", re.DOTALL)
"""AGENT:PATH; a file here whose name has a colon is written as ./a:b."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What was asked.

    Attributes:
        put: To the agent; else from it.
        tree: A folder with all that is in it.
    """

    agent: str
    here: Path
    there: str
    put: bool
    tree: bool


def cp(
    source: str,
    target: str,
    /,
    *,
    recursive: Annotated[
        bool, Parameter(name=("--recursive", "-r"), negative="", show_default=False)
    ] = False,
    common: Common | None = None,
) -> None:
    """Copy a file, or with -r a folder, to an agent or from one.

    Args:
        source: A path here, or AGENT:PATH.
        target: The other end; one that ends in / is a folder to copy into.
        recursive: Copy a folder: modes, links and empty folders, too.
        common: Where the bus is. --timeout counts for reaching the agent only.
    """
    common = common or Common()
    output = Output(as_json=common.as_json)
    copy = understood(source, target, recursive)
    began = clock()
    done = run(_copy, common, copy, output)
    seconds = clock() - began
    if output.as_json:
        names = Transfer.__slots__
        result = {name: getattr(done, name) for name in names}
        output.data({**result, "seconds": seconds})
    else:
        output.note(
            f"{done.files} files, {done.size} bytes, in {seconds:.1f} s; verified"
        )


def understood(source: str, target: str, tree: bool) -> Copy:
    """Return what two words of the command line ask for.

    Raises:
        Wrong: Not exactly one is on an agent, or there is nothing to copy.
    """
    there, here = _REMOTE.fullmatch(target), _REMOTE.fullmatch(source)
    if (there is None) == (here is None):
        raise Wrong(
            "one of the two is on an agent: cp SRC AGENT:DST, or cp AGENT:SRC DST "
            "(a file here with a colon in its name: ./a:b)"
        )
    if there is not None:
        return _putting(Path(source), there[1], there[2], tree)
    assert here is not None
    into = Path(target)
    if target.endswith("/") or into.is_dir():
        into /= PurePosixPath(here[2]).name
    return Copy(here[1], into, here[2], put=False, tree=tree)


def _putting(source: Path, agent: str, target: str, tree: bool) -> Copy:
    if not source.exists():
        raise Wrong(f"{source}: no such file or folder")
    if source.is_dir() != tree:
        raise Wrong(
            f"{source} is {'no folder: leave -r out' if tree else 'a folder: use -r'}"
        )
    if target.endswith("/"):
        target += source.resolve().name
    return Copy(agent, source, target, put=True, tree=tree)


async def _copy(common: Common, copy: Copy, output: Output) -> Transfer:
    async with reach(common) as master:
        agent = master.agent(copy.agent)
        await agent.ready(timeout=common.patience)
        with _bar(copy.here.name, output) as report:
            return await _transfer(agent, copy, report)


async def _transfer(agent: RemoteAgent, copy: Copy, report: Any) -> Transfer:
    files = agent.files
    if copy.put:
        put = files.put_tree if copy.tree else files.put
        return await put(copy.here, copy.there, progress=report)
    get = files.get_tree if copy.tree else files.get
    return await get(copy.there, copy.here, progress=report)


def _bar(title: str, output: Output) -> Any:
    if not output.on_terminal:
        return nullcontext()
    from .bar import shown_bar

    return shown_bar(title)
