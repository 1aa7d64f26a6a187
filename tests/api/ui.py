"""`internlm2 ui` as a process, and what it answers."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.unit.cli.ui.structure import Document


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    code: int
    text: str

    @property
    def page(self) -> Document:
        return Document(self.text)


def get(url: str, path: str, authorization: str = "") -> Reply:
    request = urllib.request.Request(url + path, headers={"Authorization": authorization} if authorization else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return Reply(answer.status, answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.read().decode())


@contextlib.contextmanager
def pages(kubeconfig: Path, *flags: str, port: int = 0) -> Iterator[str]:
    """The program; yields the address that it printed. It ends well when it is told to."""
    env = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "internlm2_operator.cli", "ui", "--port", str(port), *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env | {"KUBECONFIG": str(kubeconfig)},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            url = process.stdout.readline().strip().replace("0.0.0.0", "127.0.0.1")
            assert url, process.stderr.read()
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=60)
        assert (code, "Traceback" in process.stderr.read()) == (0, False)
