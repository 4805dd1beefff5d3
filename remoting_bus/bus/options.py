"""Options of bus URLs, for drivers: how each is read, and what is said of a wrong one.

Owns the converters that drivers share and the TLS files that their options name. It must
not know which driver has which option. Next: `urls`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Mapping
from typing import Any

from remoting_bus.errors import ConnectionFailed

from .urls import BusUrl

__all__ = [
    "Option",
    "count",
    "one_of",
    "read_options",
    "seconds",
    "switch",
    "text",
    "tls_context",
]

Option = tuple[Callable[[str], Any], str]
"""Converts an option's text or raises ValueError; and what is wanted, in words."""


def seconds(value: str) -> float:
    """Read a number of seconds above 0."""
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(value)
    return number


def count(value: str) -> int:
    """Read a whole number above 0."""
    number = int(value)
    if number <= 0:
        raise ValueError(value)
    return number


def one_of(*allowed: str) -> Callable[[str], str]:
    """Return what reads one of these words."""

    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(value)
        return value

    return check


def text(value: str) -> str:
    """Read a text that is not empty."""
    if not value:
        raise ValueError(value)
    return value


def switch(value: str) -> bool:
    """Read 0 or 1."""
    return one_of("0", "1")(value) == "1"


def read_options(
    url: BusUrl, known: Mapping[str, Option], elsewhere: Collection[str] = ()
) -> dict[str, Any]:
    """Return the options of a URL, converted, by name.

    Args:
        url: It.
        known: The options that are read here.
        elsewhere: Further ones that the URL may have, and that are read elsewhere.

    Raises:
        ValueError: One is unknown, or not what is wanted of it; its value is not shown.
    """
    url.check_options([*known, *elsewhere])
    found: dict[str, Any] = {}
    for name, value in url.options.items():
        if name not in known:
            continue
        convert, wanted = known[name]
        try:
            found[name] = convert(value)
        except ValueError:
            raise ValueError(
                f"option {name!r} of {url.scheme}:// wants {wanted}"
            ) from None
    if "tls_key" in found and "tls_cert" not in found:
        raise ValueError(f"option 'tls_key' of {url.scheme}:// needs 'tls_cert' too")
    return found


def tls_context(
    authorities: str | None, certificate: str | None, key: str | None
) -> ssl.SSLContext:
    """Return TLS as these files say now; they are read: in a thread.

    Raises:
        ConnectionFailed: One cannot be read; waiting does not mend that.
    """
    try:
        context = ssl.create_default_context(cafile=authorities)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        named = ", ".join(each for each in (authorities, certificate, key) if each)
        raise ConnectionFailed(f"TLS files {named}: {error}", final=True) from error
    return context
