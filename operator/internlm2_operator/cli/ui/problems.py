"""Which answer a failure is, and what a person can do about it. Pure."""

from typing import Final

from internlm2_operator.cli.ui.pages import Problem
from internlm2_operator.cluster import errors
from internlm2_spec.config import Refused

NO_TOKEN: Final = "No token came with the request."
_SIGN_IN: Final = (
    "Give a token of yours as the password, with any user name: kubectl create token ACCOUNT prints one, as does the"
    " login of your cluster."
)
_LOG_IN: Final = "Log in anew, as for kubectl, and start internlm2 ui again."
_ASK: Final = (
    "Name a namespace of yours above, or ask who runs the cluster for the role internlm2-operator-user-view there;"
    " nodes need get and list of nodes in the whole cluster."
)
_AWAY: Final = "Try again in a moment."


def unknown(said: str, *, shared: bool) -> tuple[int, Problem]:
    """Return the answer to somebody whom the API server does not know."""
    return 401, Problem("Who are you?", said, _SIGN_IN if shared else _LOG_IN)


def absent(said: str) -> tuple[int, Problem]:
    return 404, Problem("Not found", said)


def problem(error: errors.ClusterError | Refused, *, shared: bool) -> tuple[int, Problem]:
    """Return HTTP status and page of a failure."""
    match error:
        case errors.Unknown():
            return unknown("The API server does not know the token of this request.", shared=shared)
        case errors.Forbidden():
            return 403, Problem("You may not see this", errors.told(error), _ASK)
        case errors.NotFound():
            return absent(errors.told(error))
        case Refused():
            return 501, Problem("This program is too old", str(error))
    return 503, Problem("The API server does not answer", str(error), _AWAY)
