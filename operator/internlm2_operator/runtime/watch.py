"""kopf, used for what it is best at: the watch of our own resource, and a process that starts and stops in order.

No change handlers, no finalizers, no index, and no pods or nodes: kopf gives each object a task of its own, which
at 10,000 pods costs more than all decisions. docs/decisions/0006-kopf-for-watches-only.md has the measurements.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import kopf

from internlm2_operator.cluster.gateway import credentials
from internlm2_spec import contract

_BACKOFFS: Final = (0.5, 1.0, 2.0)


class _Patience:
    """Seconds between tries of one request, without an end: an outage of the API server is no reason to exit.

    kopf gives up after a list of delays, and a watch that gave up ends the process.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain(_BACKOFFS, itertools.repeat(_BACKOFFS[-1]))


Sink = Callable[[str, dict[str, Any]], object]
"""Takes the event's type (empty in the first LIST) and the object."""


def registry(sink: Sink, alive: Callable[[], None]) -> kopf.OperatorRegistry:
    """Return a registry of our own with one event handler, for jobs; the default one is global."""
    mine = kopf.OperatorRegistry()

    async def handle(event: Any, **_: Any) -> None:
        alive()
        sink(event["type"] or "", dict(event["object"]))

    kopf.on.event(contract.API_GROUP, contract.API_VERSION, contract.PLURAL, id="job", registry=mine)(handle)
    kopf.on.login(id="login", registry=mine)(login)
    return mine


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings: keep trying, notice a stream that has gone dead."""
    chosen = kopf.OperatorSettings()
    chosen.watching.chunk_size = 500
    chosen.watching.server_timeout = 300
    chosen.watching.client_timeout = 330
    chosen.watching.connect_timeout = 10
    chosen.networking.request_timeout = 30
    chosen.networking.connect_timeout = 10
    chosen.networking.error_backoffs = _Patience()
    chosen.networking.trust_env = True
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.process.ultimate_exiting_timeout = 20
    return chosen


async def login(**_: Any) -> kopf.ConnectionInfo:
    """The gateway's credentials, so that both halves of the process are one user."""
    found = await credentials()
    scheme, __, token = str((await found.get_api_key_with_prefix("BearerToken")) or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=found.host,
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        scheme=scheme or None,
        token=token or None,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
        trust_env=True,
    )
