"""`remoting-bus completion`: prints what a shell needs; installs nothing."""

from __future__ import annotations

from typing import Literal

from .output import Output

__all__ = ["completion"]


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the completion script of a shell.

    Args:
        shell: For bash: eval "$(remoting-bus completion bash)".
    """
    from .app import make_app

    Output().line(make_app().generate_completion(shell=shell))
