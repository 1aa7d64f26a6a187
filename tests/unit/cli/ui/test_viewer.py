"""Who asks, from where, about what."""

import base64

import pytest

from internlm2_operator.cli.ui import viewer


def basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


TOKENS = {
    "of a program": ("Bearer eyJh.bGci_-~+/x=", "eyJh.bGci_-~+/x="),
    "scheme in any case": ("bearer abc", "abc"),
    "typed as a password": (basic(b"me:abc.def"), "abc.def"),
    "no user name": (basic(b":abc"), "abc"),
    "no header": ("", None),
    "another scheme": ("Digest abc", None),
    "nothing after the scheme": ("Bearer ", None),
    "a line feed": ("Bearer abc\r\nImpersonate-User: admin", None),
    "a line feed in a password": (basic(b"me:abc\r\nImpersonate-User: admin"), None),
    "two words": ("Bearer abc def", None),
    "no password": (basic(b"me"), None),
    "no base64": ("Basic ***", None),
    "no text": (basic(b"\xff:\xff"), None),
    "longer than any token": ("Bearer " + "a" * 8193, None),
}


@pytest.mark.parametrize(("header", "expected"), TOKENS.values(), ids=TOKENS)
def test_token(header: str, expected: str | None) -> None:
    assert viewer.token(header) == expected


@pytest.mark.parametrize("host", ["127.0.0.1:8090", "localhost", "LOCALHOST:9", "[::1]:8090", "[::1]"])
def test_this_machine_is_local(host: str) -> None:
    assert viewer.local(host)


@pytest.mark.parametrize("host", ["rebind.example:8090", "127.0.0.1.example", "", ":8090", "localhost.example:8090"])
def test_a_name_that_somebody_led_here_is_not(host: str) -> None:
    assert not viewer.local(host)


@pytest.mark.parametrize("name", ["a", "gpu-017.rack.example", "a" * 253])
def test_names(name: str) -> None:
    assert viewer.is_name(name)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a%2fb", "a?x=1", "A", "-a", "a..b", "a\n", "a" * 254])
def test_what_would_change_the_path_is_no_name(name: str) -> None:
    assert not viewer.is_name(name)
