"""A ServiceAccount of one namespace, with the rights that a cluster gives to those who work there."""

import json
import urllib.error
from pathlib import Path
from typing import Final

from tests.api.apiserver import ApiServer
from tests.api.helm import Helm
from tests.api.rest import Object, Rest
from tests.api.stage import SYSTEM

ACCOUNT: Final = "researcher"
EDITOR: Final = "editor"
RBAC: Final = "rbac.authorization.k8s.io"


def install_chart(api: ApiServer, folder: Path, *values: str) -> list[Object]:
    """Install what the chart renders with its defaults, but for the operator itself, which tests start."""
    bodies = Helm(folder).template("--namespace", SYSTEM, "--kube-version=1.35.0", "--skip-tests", *values)
    space: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}
    for body in (space, *(body for body in bodies if body["kind"] not in ("Deployment", "DaemonSet"))):
        api.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(body))
    return bodies


def make_tenant(api: ApiServer, namespace: str, *, account: str, roles: tuple[str, ...]) -> Rest:
    """Make the account in a namespace that exists, bind these ClusterRoles there; return a client with its token."""
    bodies: list[Object] = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}}]
    for role in roles:
        subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
        reference = {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}
        meta = {"name": f"{account}-{role.replace(':', '-')}"}
        bodies.append(
            {"apiVersion": f"{RBAC}/v1", "kind": "RoleBinding", "metadata": meta, "roleRef": reference,
             "subjects": [subject]}
        )  # fmt: skip
    for body in bodies:
        api.kubectl("apply", "--server-side", "--namespace", namespace, "-f", "-", stdin=json.dumps(body))
    token = api.kubectl("create", "token", account, "--namespace", namespace, "--duration", "2h").stdout.strip()
    return Rest(api, token)


def refused(rest: Rest, method: str, path: str, body: Object | None = None, *, kind: str = "application/json") -> str:
    """Return code and message of an answer that refuses.

    Raises:
        AssertionError: it was allowed.
    """
    try:
        rest(method, path, body, kind=kind)
    except urllib.error.HTTPError as error:
        with error:
            said = json.loads(error.read())
        return f"{error.code} {said['message']}"
    raise AssertionError(f"{method} {path} was allowed")
