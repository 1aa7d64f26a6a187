"""Real servers for tests: an S3 server (versitygw) over a folder, which can be stopped and started again."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import boto3

ACCESS_KEY: Final = "internlm2"
SECRET_KEY: Final = "internlm2-secret"
READY_SECONDS: Final = 30.0


def versitygw() -> Path:
    """Return the S3 server's binary, built first where it is not."""
    cache = Path(os.environ.get("INTERNLM2_CACHE") or Path.home() / ".cache" / "internlm2")
    if found := _newest(cache):
        return found
    subprocess.run([sys.executable, "-m", "lab", "build"], check=True)
    found = _newest(cache)
    assert found is not None, f"`lab build` left nothing in {cache / 'bin'}"
    return found


def _newest(cache: Path) -> Path | None:
    found = [path for path in cache.glob("bin/versitygw-*/versitygw") if os.access(path, os.X_OK)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


class S3Server:
    """One server on 127.0.0.1; `bucket` exists. Its objects survive `stop` and `start`."""

    def __init__(self, folder: Path, *, bucket: str = "training") -> None:
        self.bucket = bucket
        self.objects = folder / "objects"
        self.objects.mkdir(parents=True)
        self._log = folder / "versitygw.log"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_REGION": "us-east-1",
        }

    def url(self, prefix: str) -> str:
        return f"s3://{self.bucket}/{prefix}"

    def start(self) -> None:
        """Start and wait until a listing is answered."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [versitygw(), "--port", f"127.0.0.1:{self._port}", "posix", str(self.objects)],
                env={"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY, "PATH": os.environ["PATH"]},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + READY_SECONDS
        while not _answers(self._port):
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def make_bucket(self) -> None:
        client = boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )
        with contextlib.closing(client):
            client.create_bucket(Bucket=self.bucket)

    def stop(self) -> None:
        """Kill the server, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run an S3 server with its bucket until the block ends."""
    server = S3Server(folder)
    try:
        server.start()
        server.make_bucket()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.objects, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
