"""A real Prometheus that scrapes exporters of the test: DCGM's metric names, values as the test sets them."""

import contextlib
import functools
import http.server
import json
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from tests.api.apiserver import free_ports, wait_for

SCRAPE_SECONDS: Final = 1


class Exporter:
    """The exporter of one node with two GPUs, scraped under its own name; another name is somebody who pretends."""

    def __init__(self, node: str, name: str = "") -> None:
        self.node = node
        self.name = name or node
        self.lost: set[str] = set()
        self._last: dict[str, int] = {}
        self._counts: dict[tuple[str, int], int] = {}

    def gpu(self, index: int) -> str:
        """Return a GPU's UUID."""
        return f"GPU-{self.node}-{index}"

    def raise_xid(self, xid: int, *, gpu: int = 0) -> None:
        """Do what DCGM does: the gauge sticks to the last code, the window's count goes up."""
        uuid = self.gpu(gpu)
        self._last[uuid] = xid
        self._counts[uuid, xid] = self._counts.get((uuid, xid), 0) + 1

    def text(self) -> str:
        there = [uuid for uuid in map(self.gpu, range(2)) if uuid not in self.lost]
        lines = [f"DCGM_FI_DEV_XID_ERRORS{{{self._labels(uuid)}}} {self._last.get(uuid, 0)}" for uuid in there]
        lines += [f"DCGM_FI_DEV_GPU_TEMP{{{self._labels(uuid)}}} 42" for uuid in there]
        for (uuid, xid), count in self._counts.items():
            lines.append(f'DCGM_EXP_XID_ERRORS_COUNT{{{self._labels(uuid)},xid="{xid}"}} {count}')
        return "\n".join(lines) + "\n"

    def _labels(self, uuid: str) -> str:
        return f'UUID="{uuid}",Hostname="{self.node}"'


class Monitoring:
    """Prometheus and the exporters; `url` is what the operator is told, `scrape_seconds` the time between scrapes."""

    def __init__(self, folder: Path, scrape_seconds: int = SCRAPE_SECONDS) -> None:
        self._folder = folder
        self._scrape_seconds = scrape_seconds
        self._exporters: dict[str, Exporter] = {}
        self._port = free_ports(1)[0]
        self._pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        threading.Thread(target=self._pages.serve_forever, daemon=True).start()
        self._configure()
        argv = [
            "prometheus",
            f"--config.file={self._folder}/prometheus.yml",
            f"--storage.tsdb.path={self._folder}/data",
        ]
        argv += [f"--web.listen-address=127.0.0.1:{self._port}", "--web.enable-lifecycle"]
        with (self._folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        wait_for(self._ready, what="Prometheus")

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
        self._pages.shutdown()
        self._pages.server_close()

    def watch(self, *nodes: str) -> list[Exporter]:
        """Add the exporters of these nodes."""
        return self.scrape(*map(Exporter, nodes))

    def scrape(self, *fresh: Exporter) -> list[Exporter]:
        """Add exporters, and wait until Prometheus knows their GPUs."""
        self._exporters |= {exporter.name: exporter for exporter in fresh}
        self._configure()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/-/reload", method="POST"), timeout=30).close()
        for exporter in fresh:
            query = f'count(DCGM_FI_DEV_GPU_TEMP{{job="dcgm-{exporter.name}"}}) == 2'
            wait_for(functools.partial(self._holds, query), what=query)
        return list(fresh)

    def _configure(self) -> None:
        own = f"127.0.0.1:{self._pages.server_address[1]}"
        scrapes = [
            {
                "job_name": f"dcgm-{name}",
                "metrics_path": f"/{name}",
                "static_configs": [{"targets": [own]}],
            }
            for name in self._exporters
        ]
        seconds = f"{self._scrape_seconds}s"
        body = {"global": {"scrape_interval": seconds, "scrape_timeout": seconds}, "scrape_configs": scrapes}
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(body))

    def _holds(self, query: str) -> bool:
        asked = urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{asked}", timeout=30) as answer:
            return bool(json.loads(answer.read())["data"]["result"])

    def _ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        exporters = self._exporters

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                exporter = exporters.get(self.path.strip("/"))
                self.send_response(200 if exporter else 404)
                self.end_headers()
                self.wfile.write(exporter.text().encode() if exporter else b"")

            def log_message(self, format: str, *args: object) -> None: ...

        return Handler


@contextlib.contextmanager
def monitoring(folder: Path, scrape_seconds: int = SCRAPE_SECONDS) -> Iterator[Monitoring]:
    """Run Prometheus until the block ends."""
    running = Monitoring(folder, scrape_seconds)
    try:
        running.start()
        yield running
    finally:
        running.stop()
