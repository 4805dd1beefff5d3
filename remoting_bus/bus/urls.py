"""URLs of buses: one reading of them for the core and for every driver.

Owns the form `scheme://user:password@host:port,host:port/path?option=value`, and what
is wrong with one that is not of it. It must not know what any scheme or option means.
Passwords never stand in an error's message.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote

__all__ = [
    "BusUrl",
    "Host",
    "normalise",
    "parse_url",
    "split_option",
    "without_secrets",
]

MAX_PORT = 65535
"""The largest TCP port (RFC 9293: 16 bits)."""

_NEXT_URL = re.compile(r",\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_PARTS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?"
)
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.%]+\]|[^:\[\]]+)(?::(?P<port>.*))?")
_BAD_IN_HOST = re.compile(r"[\s\x00-\x1f\x7f\\^`{}|<>\"%]")


@dataclass(frozen=True, slots=True)
class Host:
    """One place of a broker.

    Attributes:
        name: A host's name or address, IPv6 without brackets; the bare name of a
            `memory://` bus.
        port: None where the URL does not say.
        user: Percent-decoded; None where the URL does not say.
        password: As `user`.
    """

    name: str
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class BusUrl:
    """A URL taken apart.

    Attributes:
        scheme: In lower case.
        hosts: In the order given; empty for a driver that needs none.
        path: What follows the first "/", without it, percent-decoded; None where
            there is no "/".
        options: The query; each option once.
    """

    scheme: str
    hosts: tuple[Host, ...]
    path: str | None
    options: dict[str, str]

    def check_options(self, known: Collection[str]) -> None:
        """Refuse an option that the driver does not know.

        Raises:
            ValueError: It names the unknown options, and the known ones.
        """
        unknown = sorted(set(self.options) - set(known))
        if unknown:
            knows = ", ".join(sorted(known)) or "none"
            raise ValueError(
                f"{self.scheme}:// has no option {', '.join(map(repr, unknown))}; "
                f"its options are: {knows}"
            )

    def int_option(self, name: str, default: int, *, minimum: int = 1) -> int:
        """Return an option that is a whole number.

        Raises:
            ValueError: It is no number, or less than `minimum`.
        """
        text = self.options.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < minimum:
            raise ValueError(
                f"option {name}={text!r} of {self.scheme}:// must be a whole number, "
                f"at least {minimum}"
            )
        return int(text)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One URL as written, in the parts that `normalise` joins again."""

    scheme: str
    authorities: tuple[str, ...]
    path: str | None
    options: tuple[tuple[str, str], ...]


def parse_url(url: str, *, needs_host: bool = True) -> BusUrl:
    """Take a URL apart.

    Args:
        url: As `Backend.open` gets it.
        needs_host: Whether the scheme means nothing without a host.

    Raises:
        ValueError: What is wrong with it, in words.
    """
    piece = _join(url)
    hosts = tuple(_host(url, text) for text in piece.authorities)
    if needs_host and not hosts:
        raise _wrong(url, f"it names no host; write {piece.scheme}://HOST")
    path = None if piece.path is None else unquote(piece.path[1:])
    return BusUrl(piece.scheme, hosts, path, dict(piece.options))


def normalise(url: str | Sequence[str]) -> str:
    """Return one URL for a URL, or for several of one broker.

    `["nats://a", "nats://b"]`, `"nats://a,nats://b"` and `"nats://a,b"` are the same.
    A path or option that only some of them have holds for all.

    Raises:
        ValueError: One is no URL, schemes are mixed, or two of them disagree.
        TypeError: Something is not a string.
    """
    piece = _join(url)
    return piece.scheme + "://" + ",".join(piece.authorities) + _tail(piece)


def split_option(url: str, name: str) -> tuple[str, str | None]:
    """Take one option out of a URL: what remains, and the option's value or None.

    Raises:
        ValueError: The URL is not understood.
    """
    piece = _join(url)
    options = dict(piece.options)
    value = options.pop(name, None)
    rest = _Piece(piece.scheme, piece.authorities, piece.path, tuple(options.items()))
    return rest.scheme + "://" + ",".join(rest.authorities) + _tail(rest), value


def without_secrets(url: str) -> str:
    """Return `url` as it may be shown: no user, password, nor value of an option.

    More is hidden than need be, as a password that should have been percent-encoded may
    hold any sign.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    _, at, place = rest.rpartition("@")
    place, query, _ = place.partition("?")
    return (
        scheme + separator + ("***@" if at else "") + place + ("?***" if query else "")
    )


def _join(url: str | Sequence[str]) -> _Piece:
    """Read one or several URLs into one piece, or say where they disagree."""
    texts = [
        text
        for one in ([url] if _is_one(url) else url)
        for text in _NEXT_URL.split(_text(one))
    ]
    if not texts:
        raise ValueError("no URL is given")
    pieces = [_piece(text.strip()) for text in texts]
    first = pieces[0]
    authorities: list[str] = []
    path: str | None = None
    options: dict[str, str] = {}
    for text, piece in zip(texts, pieces, strict=True):
        if piece.scheme != first.scheme:
            raise ValueError(
                f"the URLs of one bus must have one scheme, not {first.scheme}:// and "
                f"{piece.scheme}://"
            )
        if len(pieces) > 1 and not piece.authorities:
            raise _wrong(text, "one of several URLs names no host")
        authorities += [a for a in piece.authorities if a not in authorities]
        if piece.path is not None:
            if path not in {None, piece.path}:
                raise _wrong(text, f"its path differs from {path!r} of another")
            path = piece.path
        for key, value in piece.options:
            if options.setdefault(key, value) != value:
                raise _wrong(text, f"option {key!r} has two values")
    return _Piece(first.scheme, tuple(authorities), path, tuple(options.items()))


def _is_one(url: object) -> bool:
    """Tell one URL, or what is none, from a sequence of them."""
    return isinstance(url, str | bytes) or not isinstance(url, Sequence)


def _text(url: object) -> str:
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a str, not {type(url).__name__}")
    return url


def _piece(text: str) -> _Piece:
    """Read one URL."""
    if not text:
        raise ValueError("a URL is empty")
    match = _PARTS.fullmatch(text)
    if match is None:
        why = (
            "'#' is not allowed in it; write %23"
            if "#" in text
            else "it must begin with SCHEME://"
        )
        raise _wrong(text, why)
    authority = match["authority"]
    authorities = tuple(authority.split(",")) if authority else ()
    for one in authorities:
        _host(text, one)
    path = match["path"]
    options: dict[str, str] = {}
    try:
        pairs = parse_qsl(
            match["query"] or "", keep_blank_values=True, strict_parsing=True
        )
    except ValueError:
        if match["query"]:
            raise _wrong(text, "its options must be NAME=VALUE joined by '&'") from None
        pairs = []
    for key, value in pairs:
        if options.setdefault(key, value) != value:
            raise _wrong(text, f"option {key!r} has two values")
    return _Piece(match["scheme"].lower(), authorities, path, tuple(options.items()))


def _host(url: str, text: str) -> Host:
    """Read `user:password@host:port`."""
    login, at, place = text.rpartition("@")
    match = _HOST.fullmatch(place)
    if match is None or _BAD_IN_HOST.search(match["name"].strip("[]")):
        if not place or place.startswith(":"):
            raise _wrong(url, "a host is empty")
        raise _wrong(
            url,
            "a host is not understood (IPv6 stands in brackets; in a password "
            "percent-encode what is not a letter or digit)",
        )
    port = match["port"]
    if port is not None and not (
        re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) <= MAX_PORT
    ):
        raise _wrong(
            url,
            f"a port must be a number from 1 to {MAX_PORT} (a ',', ':', '/' or '@' "
            "in a password is percent-encoded)",
        )
    user, colon, password = login.partition(":")
    return Host(
        name=match["name"].strip("[]"),
        port=None if port is None else int(port),
        user=unquote(user) if at else None,
        password=unquote(password) if colon else None,
    )


def _tail(piece: _Piece) -> str:
    """Write path and options again."""
    query = "&".join(f"{_quote(k)}={_quote(v)}" for k, v in piece.options)
    return (piece.path or "") + ("?" + query if query else "")


def _quote(text: str) -> str:
    return quote(text, safe="/:,@~")


def _wrong(url: str, why: str) -> ValueError:
    return ValueError(f"the URL {without_secrets(url)!r} is not understood: {why}")
