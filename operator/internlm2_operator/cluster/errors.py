"""How a call to the outside can fail, told apart once, here at the edge.

ClusterError
├── Retry      the other side is away, busy or starting: the same call may work in a moment
│   ├── Expired   what the call goes on from is not kept any more: begin anew with a LIST
│   └── Unknown    the API server does not know who calls: a bound token is rotated under a running client
├── GiveUp     the other side refused: the same call will fail again until somebody changes something
│   ├── Forbidden  the caller has no right to it
│   ├── PodRefused
│   └── NotOurs    an object of that name is somebody else's
├── Conflict   somebody else wrote in between: read again, decide again
│   └── AlreadyExists
└── NotFound
"""

from typing import Any


class ClusterError(Exception):
    """Base of everything a call through the gateway raises."""


class Retry(ClusterError): ...


class Expired(Retry): ...


class Unknown(Retry): ...


class GiveUp(ClusterError): ...


class Forbidden(GiveUp):
    """The caller has no right to that, or a quota or a policy forbids it."""


class PodRefused(GiveUp):
    """A pod may not be made: a quota, an admission policy, a field of the template."""


class NotOurs(GiveUp): ...


class Conflict(ClusterError): ...


class AlreadyExists(Conflict): ...


class NotFound(ClusterError): ...


def told(error: ClusterError) -> str:
    """Return the API server's own words, without code and reason."""
    return str(error).partition(": ")[2] or str(error)


def from_status(code: int, status: dict[str, Any]) -> ClusterError:
    """Return the error for an HTTP answer of the API server outside 2xx.

    410 is a retry because a paged LIST outlived its snapshot and has to start again.
    """
    message = f"{code} {status.get('reason', '')}: {status.get('message', '')}"[:1024]
    if code == 404:
        return NotFound(message)
    if code == 409:
        return AlreadyExists(message) if status.get("reason") == "AlreadyExists" else Conflict(message)
    if code == 410:
        return Expired(message)
    if code == 401:
        return Unknown(message)
    if code == 403:
        return Forbidden(message)
    if code in (408, 429) or code >= 500:
        return Retry(message)
    return GiveUp(message)
