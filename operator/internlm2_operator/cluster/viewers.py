"""The API server as somebody else sees it: every call bears the token of who asks, and no right of this process."""

import os
from pathlib import Path
from typing import Final

from kubernetes.aio import client

from internlm2_operator.cluster.gateway import POOL, Gateway, credentials, unobserved
from internlm2_spec.config import Refused

# Of the cluster's own certificate authority, which every namespace has in a ConfigMap: no token need lie beside it.
AUTHORITY: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
# What tells where a server is and how it is known, of all that a configuration holds.
_PLACE: Final = ("host", "ssl_ca_cert", "ca_cert_data", "verify_ssl", "assert_hostname", "tls_server_name", "proxy")

Where = client.Configuration
"""How to reach an API server, as nobody."""


async def place(context: str | None = None) -> Where:
    """Return where the API server is, with nobody's credentials: of this pod's cluster, or of the kubeconfig.

    Raises:
        Refused: there is neither.
    """
    if context is None and (host := os.environ.get("KUBERNETES_SERVICE_HOST")):
        return inside(host, os.environ["KUBERNETES_SERVICE_PORT"], AUTHORITY)
    return _of(await credentials(context))


def inside(host: str, port: str, authority: Path) -> Where:
    """Return where the API server is for a pod of its cluster.

    Raises:
        Refused: there is no certificate to know it by.
    """
    if not authority.exists():
        raise Refused(str(authority), wrong="is missing", right="mount ConfigMap kube-root-ca.crt there")
    url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    return client.Configuration(host=url, ssl_ca_cert=str(authority))


def bearing(token: str, where: Where) -> Gateway:
    """Return a gateway that asks on behalf of who brought `token`; the caller closes it."""
    return Gateway(client.ApiClient(configuration=configured(token, where)), unobserved)


def configured(token: str, where: Where) -> client.Configuration:
    """Return the same place, as who brought `token`: every credential of `where`, and what would renew it, is left."""
    theirs = _of(where)
    theirs.api_key = {"BearerToken": f"Bearer {token}"}
    return theirs


def _of(known: Where) -> Where:
    bare = client.Configuration(connection_pool_maxsize=POOL)
    for name in _PLACE:
        setattr(bare, name, getattr(known, name))
    return bare
