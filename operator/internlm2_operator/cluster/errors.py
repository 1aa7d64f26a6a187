"""How a call to the outside can fail, told apart once, here at the edge.

ClusterError
├── Retry      the other side is away, busy or starting: the same call may work in a moment
├── GiveUp     the other side refused: the same call will fail again until somebody changes something
├── Conflict   somebody else wrote in between: read again, decide again
│   └── AlreadyExists
└── NotFound
"""

from typing import Any


class ClusterError(Exception):
    """Base of everything a call through the gateway raises."""


class Retry(ClusterError): ...


class GiveUp(ClusterError): ...


class Conflict(ClusterError): ...


class AlreadyExists(Conflict): ...


class NotFound(ClusterError): ...


def from_status(code: int, status: dict[str, Any]) -> ClusterError:
    """Return the error for an HTTP answer of the API server outside 2xx.

    401 is a retry because a bound token is rotated under a running client; 410 because a paged LIST
    outlived its snapshot and has to start again.
    """
    message = f"{code} {status.get('reason', '')}: {status.get('message', '')}"[:1024]
    if code == 404:
        return NotFound(message)
    if code == 409:
        return AlreadyExists(message) if status.get("reason") == "AlreadyExists" else Conflict(message)
    if code in (401, 408, 410, 429) or code >= 500:
        return Retry(message)
    return GiveUp(message)
