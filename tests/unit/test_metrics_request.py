"""HTTP as bytes: what is a request of ours, and what is refused."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.config_values import is_loopback
from selfheald.metrics.request import (
    RefusedError,
    Request,
    Response,
    host_of,
    parse,
    require_own_name,
)


def test_a_request_is_read() -> None:
    assert parse(b"GET /metrics?x=/y HTTP/1.1\r\nAccept: */*\r\nhOST:  localhost:9187 ") == Request(
        "GET", "/metrics", "localhost:9187"
    )
    assert parse(b"HEAD / HTTP/1.0") == Request("HEAD", "/", None)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", HTTPStatus.BAD_REQUEST),
        (b"GET / HTTP/1.1", HTTPStatus.BAD_REQUEST),
        (b"GET / HTTP/3.1\r\nHost: a", HTTPStatus.BAD_REQUEST),
        (b"GET  / HTTP/1.1\r\nHost: a", HTTPStatus.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nHost : a", HTTPStatus.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b", HTTPStatus.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nHost: a\nX: b", HTTPStatus.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost: a", HTTPStatus.BAD_REQUEST),
        ("GET /\u00e4 HTTP/1.1\r\nHost: a".encode(), HTTPStatus.BAD_REQUEST),
        (b"PATCH / HTTP/1.1\r\nHost: a", HTTPStatus.METHOD_NOT_ALLOWED),
        (b"get / HTTP/1.1\r\nHost: a", HTTPStatus.METHOD_NOT_ALLOWED),
    ],
)
def test_what_is_none_is_refused(head: bytes, status: HTTPStatus) -> None:
    with pytest.raises(RefusedError) as caught:
        parse(head)
    assert caught.value.response.status is status


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(head: bytes) -> None:
    try:
        found = parse(head)
    except RefusedError:
        return
    assert found.method in ("GET", "HEAD")
    assert found.path.startswith("/")


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost", True), ("LocalHost.", True), ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True),
        ("evil.example", False), ("localhost.evil.example", False), ("0.0.0.0", False), ("::", False),
        ("192.168.0.1", False), ("", False), ("127.0.0.1 ", False), ("0x7f.1", False),
    ],
)  # fmt: skip
def test_loopback_names(host: str, is_ours: bool) -> None:
    assert is_loopback(host) is is_ours


def test_hosts_of_addresses() -> None:
    assert list(map(host_of, ["a:1", "a", "[::1]:9", "[::1]", "a:b:1", ""])) == ["a", "a", "::1", "::1", "a:b", ""]


def test_another_name_than_ours_is_refused() -> None:
    require_own_name(Request("GET", "/", "localhost:9187"))
    require_own_name(Request("GET", "/", None))
    with pytest.raises(RefusedError):
        require_own_name(Request("GET", "/", "evil.example"))


def test_an_answer_ends_its_connection_and_forbids_what_it_can() -> None:
    whole = Response("grüße\n").encoded(with_body=True)
    head, _, body = whole.partition(b"\r\n\r\n")
    assert body.decode() == "grüße\n"
    assert f"Content-Length: {len(body)}".encode() in head
    for line in (b"Connection: close", b"X-Content-Type-Options: nosniff", b"Cache-Control: no-store"):
        assert line in head
    assert Response("grüße\n").encoded(with_body=False) == head + b"\r\n\r\n"
    assert b"Content-Security-Policy: x\r\n" in Response("", headers={"Content-Security-Policy": "x"}).encoded(
        with_body=True
    )
