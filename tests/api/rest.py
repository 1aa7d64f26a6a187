"""Plain requests to the API server of a test, as its admin or with a token."""

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from tests.api.apiserver import TOKEN, ApiServer

JOBS = "/apis/training.internlm.io/v1alpha1"
MERGE = "application/merge-patch+json"
Object = dict[str, Any]


class Rest:
    """Objects in, objects out; an answer outside 2xx is an `urllib.error.HTTPError`."""

    def __init__(self, api: ApiServer, token: str = TOKEN) -> None:
        """`token` is another's than the admin's."""
        self._url = api.url
        self._token = token
        self._trust = ssl.create_default_context(cafile=str(api.folder / "certs" / "apiserver.crt"))

    def __call__(self, method: str, path: str, body: Object | None = None, *, kind: str = "application/json") -> Object:
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": kind},
        )
        with urllib.request.urlopen(request, context=self._trust, timeout=30) as answer:
            found: Object = json.loads(answer.read())
            return found

    def items(self, path: str) -> list[Object]:
        found: list[Object] = self("GET", path)["items"]
        return found

    def maybe(self, path: str, method: str = "GET", body: Object | None = None) -> Object | None:
        """Return what a request answers, None when its object does not exist."""
        try:
            return self(method, path, body)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                raise

    def merge(self, path: str, body: Object) -> Object:
        return self("PATCH", path, body, kind=MERGE)
