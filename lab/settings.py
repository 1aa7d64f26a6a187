"""Where the lab keeps things, and what it is made of: paths and names derived from one state folder."""

import hashlib
import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
CHECKOUT: Final = HERE.parent
# A Unix socket's path holds 108 bytes; the deepest one adds 45 to the state folder.
LONGEST_STATE_PATH: Final = 60


class LabError(Exception):
    """What is wrong and what would be right, in one line; the command line exits with 2."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One Go module that is built into one or more binaries."""

    name: str
    folder: Path
    version: str
    packages: tuple[str, ...]
    ldflags: str
    rename: dict[str, str]
    seconds: float  # a cold build on 2 cores


@dataclass(frozen=True, slots=True)
class Versions:
    """The content of versions.toml."""

    nodes: int
    gpu_nodes: int
    gpus_per_node: int
    gpu_model: str
    go_minimum: tuple[int, int]
    go_package: str
    debian_packages: tuple[str, ...]
    debian_files: tuple[str, ...]
    browser_packages: tuple[str, ...]
    browser_files: tuple[str, ...]
    axe_package: str
    image_packages: tuple[str, ...]
    image_files: tuple[str, ...]
    base_packages: tuple[str, ...]
    tools: tuple[Tool, ...]


def versions() -> Versions:
    """Read versions.toml."""
    raw = tomllib.loads((HERE / "versions.toml").read_text())
    major, minor = raw["go"]["minimum"].split(".")
    return Versions(
        nodes=raw["lab"]["nodes"],
        gpu_nodes=raw["lab"]["gpu_nodes"],
        gpus_per_node=raw["lab"]["gpus_per_node"],
        gpu_model=raw["lab"]["gpu_model"],
        go_minimum=(int(major), int(minor)),
        go_package=raw["go"]["package"],
        debian_packages=tuple(raw["debian"]["packages"]),
        debian_files=tuple(raw["debian"]["files"]),
        browser_packages=tuple(raw["browser"]["packages"]),
        browser_files=tuple(raw["browser"]["files"]),
        axe_package=raw["browser"]["axe"],
        image_packages=tuple(raw["images"]["packages"]),
        image_files=tuple(raw["images"]["files"]),
        base_packages=tuple(raw["images"]["base"]),
        tools=tuple(
            Tool(
                name=tool["name"],
                folder=HERE / tool["folder"],
                version=tool["version"],
                packages=tuple(tool["packages"]),
                ldflags=" ".join(["-s -w", tool.get("ldflags", "")]).strip(),
                rename=tool.get("rename", {}),
                seconds=tool["seconds"],
            )
            for tool in raw["tool"]
        ),
    )


def cache_dir() -> Path:
    """Return the folder of everything that can be made again: $INTERNLM2_CACHE, else the user's cache."""
    if own := os.environ.get("INTERNLM2_CACHE"):
        return Path(own).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "internlm2"


def state_dir(given: str | None = None) -> Path:
    """Return the state folder: as given, else $INTERNLM2_LAB_STATE, else `lab` in the cache.

    Raises:
        LabError: the path is too long for the Unix sockets in it.
    """
    path = Path(given or os.environ.get("INTERNLM2_LAB_STATE") or cache_dir() / "lab").resolve()
    if len(str(path)) > LONGEST_STATE_PATH:
        raise LabError(f"--state: {path} is longer than {LONGEST_STATE_PATH} characters; use a shorter path")
    return path


@dataclass(frozen=True, slots=True)
class Names:
    """Names and addresses of one lab. Those that the whole machine shares carry a hash of the state folder.

    Addresses are the same in every lab: each lives in network namespaces of its own.
    """

    state: Path

    ROUTER = "198.51.100.254"  # the control plane's address: a documentation range (RFC 5737)
    SERVICE_CIDR = "10.96.0.0/16"
    POD_CIDR = "10.244.0.0/16"
    DNS = "10.96.0.10"
    S3_ACCESS_KEY = "internlm2-lab"
    S3_SECRET_KEY = "internlm2-lab-secret"
    S3_REGION = "us-east-1"

    @property
    def key(self) -> str:
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:6]

    @property
    def control_netns(self) -> str:
        return f"ilm-{self.key}-sw"

    def netns(self, node: str) -> str:
        return f"ilm-{self.key}-{node}"

    def cgroup(self, node: str) -> str:
        return f"ilm-{self.key}-{node}"

    def node_address(self, node: str) -> str:
        return f"198.51.100.{index(node)}"

    def node_pod_cidr(self, node: str) -> str:
        return f"10.244.{index(node)}.0/24"

    def node_dir(self, node: str) -> Path:
        return self.state / node

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def apiserver_url(self) -> str:
        return f"https://{self.ROUTER}:6443"

    @property
    def s3_url(self) -> str:
        return f"http://{self.ROUTER}:9000"

    @property
    def prometheus_url(self) -> str:
        return f"http://{self.ROUTER}:9090"

    def environment(self) -> dict[str, str]:
        """Return what a program needs to talk to the lab from its control-plane network namespace."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "AWS_ACCESS_KEY_ID": self.S3_ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": self.S3_SECRET_KEY,
            "AWS_ENDPOINT_URL": self.s3_url,
            "AWS_REGION": self.S3_REGION,
            "AWS_DEFAULT_REGION": self.S3_REGION,
            "PROMETHEUS_URL": self.prometheus_url,
            "INTERNLM2_LAB_STATE": str(self.state),
        }


def index(node: str) -> int:
    """Return 3 for n3."""
    return int(node.removeprefix("n"))


def host_paths() -> list[Path]:
    """Return what containers of the host image see read-only at its own place: system, Python, environment.

    Nested paths are left out: the outer mount brings them.

    Raises:
        LabError: one of them lies where a pod's own volume would hide it.
    """
    wanted = [Path("/usr"), Path("/etc/ld.so.cache"), Path(sys.base_prefix), Path(sys.prefix)]
    real = sorted({path.resolve() for path in wanted if path.exists()})
    for path in real:
        if path.is_relative_to("/tmp"):
            raise LabError(
                f"{path}: pods have a /tmp of their own and would not see it; keep Python and INTERNLM2_CACHE elsewhere"
            )
    return [path for path in real if not any(other != path and path.is_relative_to(other) for other in real)]


def require_root() -> None:
    """Raise LabError where the lab cannot run."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise LabError("the lab needs Linux root; `make train-local` trains without it")
