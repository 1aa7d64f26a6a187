"""As much of a kubelet as the API server asks for a log: HTTPS that answers `/containerLogs`."""

import http.server
import ssl
import threading
from typing import Any, Self

from tests.api.apiserver import ApiServer


class Kubelet:
    """Serves two lines for every container, after what is in `answers`; `asked` are the paths with their queries."""

    def __init__(self, api: ApiServer) -> None:
        self.asked: list[str] = []
        self.answers: list[bytes | None] = []  # of the next requests; None refuses
        asked, answers = self.asked, self.answers

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                name = self.path.partition("?")[0].removeprefix("/containerLogs/")
                body = answers.pop(0) if answers else f"line 1 of {name}\nline 2, the last".encode()
                if body is None:
                    self.send_error(500)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # The API server does not check who a kubelet is unless it is given an authority for them.
        context.load_cert_chain(api.folder / "certs" / "apiserver.crt", api.folder / "certs" / "apiserver.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def status(self) -> dict[str, Any]:
        """Return the part of a node's status that says where its kubelet listens."""
        return {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.server_port}},
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
