"""HTTP requests and responses as bytes. Strict: what is not plainly a request for one of our few pages is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from selfheald.config_values import is_loopback

#: Bytes that the head of a request may have.
MOST_BYTES = 8192
#: What a request's head ends with.
END = b"\r\n\r\n"
TEXT = "text/plain; charset=utf-8"
#: Said with every answer: nothing is kept, guessed, framed or taken from elsewhere.
_ALWAYS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_LINE = re.compile(rf"({_TOKEN}) (/[!-~]*) HTTP/1\.([01])")
_FIELD = re.compile(rf"({_TOKEN}):[ \t]*([\t\x20-\x7e\x80-\xff]*)")


class RefusedError(Exception):
    """A request that is not answered; ``response`` says why."""

    def __init__(self, status: HTTPStatus, why: str, **headers: str) -> None:
        super().__init__(why)
        self.response = Response(f"{why}\n", status, headers=headers)


@dataclass(frozen=True, slots=True)
class Request:
    """``GET`` or ``HEAD``. ``path`` is without its query; ``host`` what the client takes us for, ``None`` if it does
    not say."""

    method: str
    path: str
    host: str | None


@dataclass(frozen=True, slots=True)
class Response:
    """``headers`` stand over those that every answer has."""

    text: str
    status: HTTPStatus = HTTPStatus.OK
    kind: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self, *, with_body: bool) -> bytes:
        """The answer to a request; to ``HEAD`` without its body."""
        body = self.text.encode("utf-8", "backslashreplace")
        headers = {"Content-Type": self.kind, "Content-Length": str(len(body)), "Connection": "close"}
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}"]
        lines += [f"{name}: {value}" for name, value in (headers | _ALWAYS | dict(self.headers)).items()]
        return "\r\n".join(lines).encode("latin-1") + END + (body if with_body else b"")


def parse(head: bytes) -> Request:
    """The request that begins a connection, up to :data:`END`. Raises :class:`RefusedError`."""
    lines = head.decode("latin-1").split("\r\n")
    first = _LINE.fullmatch(lines[0])
    fields = [_FIELD.fullmatch(line) for line in lines[1:] if line]
    if first is None or not all(fields):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "this is no HTTP request")
    method, target, minor = first.groups()
    hosts = [found[2].strip() for found in fields if found is not None and found[1].lower() == "host"]
    if len(hosts) > 1 or (not hosts and minor == "1"):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "a request names one host")
    if method not in ("GET", "HEAD"):
        raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "here one can only read", Allow="GET, HEAD")
    return Request(method, target.partition("?")[0], hosts[0] if hosts else None)


def require_own_name(request: Request) -> None:
    """Raise :class:`RefusedError` if a client of a loopback address takes us for another machine.

    So it is with a browser in which a page from elsewhere has had its own name point to this machine.
    """
    if request.host is not None and not is_loopback(host_of(request.host)):
        raise RefusedError(HTTPStatus.MISDIRECTED_REQUEST, "ask for localhost, 127.0.0.1 or [::1]")


def host_of(address: str) -> str:
    """The host of ``HOST:PORT`` or ``HOST``, without the brackets of IPv6."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::\d*)?", address)
    return bracketed[1] if bracketed else re.sub(r":\d*$", "", address)
