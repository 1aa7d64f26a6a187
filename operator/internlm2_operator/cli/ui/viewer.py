"""Who a request comes from, and whether it may come from there. Pure."""

import base64
import binascii
import re
from typing import Final

# What a token is made of (RFC 6750, b64token), which also keeps line feeds out of headers.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{1,8192}=*")
# A label of Kubernetes, or several with dots between: what may stand in a path of the API server.
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
MAX_NAME: Final = 253
LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


def token(authorization: str) -> str | None:
    """Return the token of a header: a Bearer's, or what a person typed as the password when a browser asked."""
    scheme, _, value = authorization.strip().partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    elif scheme.lower() != "bearer":
        return None
    return value.strip() if _TOKEN.fullmatch(value.strip()) else None


def local(host: str) -> bool:
    """Say whether a Host header names this machine; a page of another name can have been led here by its DNS.

    The port may be another one than ours: that of a tunnel.
    """
    name, _, port = host.lower().rpartition(":")
    return (name if port.isdecimal() and name else host.lower()) in LOOPBACK


def is_name(text: str) -> bool:
    """Say whether text can be the name of an object or a namespace."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None
