"""A progress bar in bytes, for people on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress as Bars,
    TextColumn,
    TransferSpeedColumn,
)

from remoting_bus._remote.context import Progress

__all__ = ["shown_bar"]


@contextmanager
def shown_bar(title: str) -> Iterator[Callable[[Progress], None]]:
    """Show a bar while entered; give what moves it."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Bars(*columns) as bars:
        task = bars.add_task(title, total=None)

        def report(step: Progress) -> None:
            bars.update(task, completed=step.done, total=step.total)

        yield report
