"""Build `images/*.Containerfile` where no registry can be reached: `python -m lab images`.

The base is made of Debian's packages by mmdebstrap, in place of the `python` image that the files name; buildah makes
the rest of it. What comes out is a docker-archive in the cache, keyed by all that decides it. The lab's own host image
(`lab.image`) is another: it holds nothing, and shows this machine's files.
"""

import argparse
import hashlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from lab import deps, view
from lab.process import run
from lab.settings import CHECKOUT, LabError, cache_dir, require_root, versions

FOLDER: Final = CHECKOUT / "images"
NAMES: Final = tuple(sorted(path.name.removesuffix(".Containerfile") for path in FOLDER.glob("*.Containerfile")))
PARTS: Final = CHECKOUT / ".containerignore"  # its lines with ! are what an image is made of
SUITE: Final = "bookworm"
# Debian's pip refuses to install beside apt's packages; this base is for nothing else.
HOOKS: Final = (
    'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
    'ln -s /usr/bin/python3 "$1"/usr/local/bin/python',
)
# Where this machine has its packages from, and whom it trusts there.
HANDED_ON: Final = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")
CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
BUILD_SECONDS: Final = 1800.0
_STORE: Final = cache_dir() / "images"
_BUILDAH: Final = ("buildah", f"--root={_STORE}/store", f"--runroot={_STORE}/run")


def tag(name: str) -> str:
    """Return the name that a built image has in containerd, apart from that of the lab's host image."""
    return f"docker.io/library/internlm2-{name}:built"


def build(name: str) -> Path:
    """Return the archive of an image, built unless it is there.

    Raises:
        LabError: a package is missing and cannot be installed, or the build failed.
    """
    path = _place(name)
    if path.exists():
        return path
    require_root()
    deps.install_image_tools(versions())
    path.parent.mkdir(parents=True, exist_ok=True)
    with view.step(f"image {name}: base of Debian's packages"):
        _make_base()
    with view.step(f"image {name}: {FOLDER.name}/{name}.Containerfile"):
        _buildah(
            "build", "--isolation", "chroot", "--network", "host", "--file", str(FOLDER / f"{name}.Containerfile"),
            "--tag", tag(name), "--build-arg", f"BASE={_base()}", *_arguments(), str(CHECKOUT),
        )  # fmt: skip
        scratch = path.with_suffix(f".{os.getpid()}")
        _buildah("push", tag(name), f"docker-archive:{scratch}:{tag(name)}")
        scratch.rename(path)
    return path


def _place(name: str) -> Path:
    return _STORE / f"{name}-{key(name)}.tar"


def key(name: str) -> str:
    """Return the hash of everything that decides an image."""
    digest = hashlib.sha256(_base().encode())
    for path in (FOLDER / f"{name}.Containerfile", *_sources()):
        digest.update(f"{path.relative_to(CHECKOUT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _sources() -> Iterator[Path]:
    parts = [line[1:] for line in PARTS.read_text().splitlines() if line.startswith("!")]
    for part in (CHECKOUT / name for name in parts):
        found = part.rglob("*") if part.is_dir() else [part]
        yield from sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def _base() -> str:
    """Return the name of the base, by all that decides it."""
    digest = hashlib.sha256(f"{SUITE} {versions().base_packages} {HOOKS}".encode())
    return f"localhost/internlm2-debian:{digest.hexdigest()[:12]}"


def _make_base() -> None:
    if (
        subprocess.run([*_BUILDAH, "inspect", "--type", "image", _base()], capture_output=True, check=False).returncode
        == 0
    ):
        return
    tree = _STORE / f"base.{os.getpid()}.tar"
    hooks = [f"--customize-hook={hook}" for hook in HOOKS]
    sources = [str(path) for path in _apt_sources()]
    include = f"--include={','.join(versions().base_packages)}"
    try:
        run("mmdebstrap", "--variant=minbase", include, *hooks, SUITE, str(tree), *sources, seconds=BUILD_SECONDS)
        container = _buildah("from", "scratch").strip()
        _buildah("add", container, str(tree), "/")
        _buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
        _buildah("commit", "--rm", container, _base())
    finally:
        tree.unlink(missing_ok=True)


def _apt_sources() -> list[Path]:
    """Return the files that tell this machine's apt where packages are."""
    folder = Path("/etc/apt")
    found = [folder / "sources.list", *sorted(folder.glob("sources.list.d/*"))]
    return [path for path in found if path.is_file() and path.stat().st_size]


def _arguments() -> list[str]:
    given = [f"--build-arg={name}={os.environ[name]}" for name in HANDED_ON if name in os.environ]
    trusted = Path(os.environ.get("SSL_CERT_FILE", CERTIFICATES))
    if trusted.exists():
        given += [f"--volume={trusted.resolve()}:{CERTIFICATES}:ro", f"--build-arg=SSL_CERT_FILE={CERTIFICATES}",
                  f"--build-arg=PIP_CERT={CERTIFICATES}"]  # fmt: skip
    if (settings := Path("/etc/pip.conf")).exists():
        given.append(f"--volume={settings}:{settings}:ro")
    return given


def _buildah(*args: str) -> str:
    return run(*_BUILDAH, *args, seconds=BUILD_SECONDS)


def main(arguments: Sequence[str]) -> int:
    """Build what is asked for and print the archives."""
    parser = argparse.ArgumentParser(prog="python -m lab images", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="IMAGE", help=f"of {', '.join(NAMES)} (default: all)")
    names = parser.parse_args(arguments).names or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        raise LabError(f"images: {unknown[0]!r} is not known; use {', '.join(NAMES)}")
    for name in names:
        path = build(name)
        print(f"{path} {path.stat().st_size / 1e6:.0f} MB")
    return 0
