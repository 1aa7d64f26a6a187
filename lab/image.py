"""Container images without a registry: docker-archive tars made on the spot.

The host image holds empty directories only. What fills them are read-only mounts that containerd gives to every
container of the lab (`base_spec`), so a manifest needs no hostPath and runs unchanged on a real cluster.
"""

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.settings import CHECKOUT

PAUSE = "internlm2.lab/pause:latest"
# The lab's own name, and the names of the production images, so that a manifest does not change.
HOST = ("internlm2.lab/host:latest", "internlm2-trainer:0.1.0", "internlm2-operator:0.1.0")
# Where containers see the two source trees, wherever the checkout lies: a pod's own /tmp would hide one below /tmp.
SOURCES = {Path("/opt/internlm2") / part: CHECKOUT / part for part in ("operator", "trainer")}
DIRECTORIES = ("usr", "etc", "proc", "sys", "dev", "var", "var/tmp", "run", "root", "opt", "home", "tmp")
PASSWD = """root:x:0:0:root:/tmp:/bin/sh
internlm2:x:1000:1000:internlm2:/tmp:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/sh
"""
GROUP = "root:x:0:\ninternlm2:x:1000:\nnogroup:x:65534:\n"


def _entry(name: str, *, mode: int = 0o755, kind: bytes = tarfile.DIRTYPE, size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.type, entry.size = mode, kind, size
    return entry


def _tar(files: dict[str, bytes], directories: Sequence[str] = (), links: dict[str, str] | None = None) -> bytes:
    """Return a tar with everything owned by root and dated 1970, so that equal content is equal bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in directories:
            tar.addfile(_entry(name, mode=0o1777 if name.endswith("tmp") else 0o755))
        for name, target in (links or {}).items():
            link = _entry(name, kind=tarfile.SYMTYPE, mode=0o777)
            link.linkname = target
            tar.addfile(link)
        for name, content in files.items():
            mode = 0o755 if name == "pause" else 0o644
            tar.addfile(_entry(name, kind=tarfile.REGTYPE, mode=mode, size=len(content)), io.BytesIO(content))
    return out.getvalue()


def _archive(layer: bytes, tags: Sequence[str], config: dict[str, Any]) -> bytes:
    """Return a docker-archive of one layer under several names."""
    body = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    text = json.dumps(body).encode()
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [_normal(tag) for tag in tags], "Layers": ["layer.tar"]}]
    return _tar({"layer.tar": layer, name: text, "manifest.json": json.dumps(manifest).encode()})


def _normal(tag: str) -> str:
    """Return the full name that containerd gives a short one."""
    return tag if "." in tag.split("/")[0] and "/" in tag else f"docker.io/library/{tag}"


def pause(binary: Path) -> bytes:
    """Return the archive of the sandbox image."""
    return _archive(_tar({"pause": binary.read_bytes()}), [PAUSE], {"Entrypoint": ["/pause"]})


def host(prefix: str = sys.prefix) -> bytes:
    """Return the archive of the host image; its programs are those of the environment at `prefix`."""
    links = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64") if Path(f"/usr/{name}").exists()}
    files = {"etc/passwd": PASSWD.encode(), "etc/group": GROUP.encode()}
    environment = {
        "PATH": f"{prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": ":".join(map(str, SOURCES)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/tmp",
    }
    config = {"Env": [f"{key}={value}" for key, value in environment.items()], "WorkingDir": "/tmp"}
    return _archive(_tar(files, DIRECTORIES, links), HOST, config)


def base_spec(default: dict[str, Any], paths: Sequence[Path]) -> dict[str, Any]:
    """Return containerd's default OCI spec with every path mounted read-only at its own place, and the sources."""
    mounts = [
        {"destination": str(inside), "type": "bind", "source": str(outside), "options": ["rbind", "ro"]}
        for inside, outside in [*((path, path) for path in paths), *SOURCES.items()]
    ]
    return default | {"mounts": [*default["mounts"], *mounts]}
