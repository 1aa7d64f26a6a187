"""An HTTP proxy in front of a real S3 server that breaks single requests in ways that real servers and networks do."""

import contextlib
import http.client
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlsplit

HOP: Final = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive"})


@dataclass
class Fault:
    """Breaks the requests whose `METHOD path?query` matches, `times` times.

    `kind` is an HTTP status with an S3 code ("503 SlowDown"); "cut before": the connection ends before the request
    gets through; "cut after": the request was done, its answer is lost; "truncate": half of the body; "flip": one
    bit of the body; "etag": another ETag.
    """

    kind: str
    match: str
    times: int = 1
    done: int = field(default=0, init=False)

    def takes(self, request: str) -> bool:
        """Say whether this request is to be broken, and count it."""
        if self.done == self.times or not re.search(self.match, request):
            return False
        self.done += 1
        return True


@contextlib.contextmanager
def in_front_of(endpoint: str, *faults: Fault) -> Iterator[str]:
    """Serve on a loopback port until the block ends, and yield its endpoint."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(urlsplit(endpoint).netloc, faults, threading.Lock()))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="proxy", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(server: str, faults: tuple[Fault, ...], lock: threading.Lock) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                fault = next((f.kind for f in faults if f.takes(f"{self.command} {self.path}")), "")
            if fault == "cut before":
                self.close_connection = True
                return
            if re.match(r"\d{3} ", fault):
                self._refuse(*fault.split())
                return
            answer, said = self._forwarded(body)
            if fault == "cut after":
                self.close_connection = True
                return
            self._answer(answer, said, fault)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

        def _forwarded(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
            connection = http.client.HTTPConnection(server, timeout=30)
            # The Host header is signed: it stays the one that the client wrote.
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            said = answer.read()
            connection.close()
            return answer, said

        def _refuse(self, status: str, code: str) -> None:
            said = f"<Error><Code>{code}</Code><Message>planted</Message></Error>".encode()
            self.send_response(int(status))
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def _answer(self, answer: http.client.HTTPResponse, said: bytes, fault: str) -> None:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP:
                    self.send_header(
                        name, '"0123456789abcdef"' if fault == "etag" and name.lower() == "etag" else value
                    )
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(said))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if fault == "flip" and said:
                said = said[:-1] + bytes([said[-1] ^ 1])
            if fault == "truncate":
                self.close_connection = True
                said = said[: len(said) // 2]
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler
