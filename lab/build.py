"""Build the lab's Go tools into the cache, keyed by what they are made from; a built one is never built again."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from lab import deps
from lab.settings import LabError, Tool, Versions, cache_dir, versions


def key(tool: Tool) -> str:
    """Return the hash of everything that decides the binaries: modules, flags, and our own sources."""
    digest = hashlib.sha256(" ".join([*tool.packages, tool.ldflags, str(sorted(tool.rename.items()))]).encode())
    for path in [tool.folder / "go.mod", tool.folder / "go.sum", *sorted(tool.folder.rglob("*.go"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def folder(tool: Tool) -> Path:
    """Return where the tool's binaries are, built or not."""
    return cache_dir() / "bin" / f"{tool.name}-{key(tool)}"


def binaries(made_of: Versions | None = None) -> dict[str, Path]:
    """Return the path of every binary by its name.

    Raises:
        LabError: one is not built yet.
    """
    found: dict[str, Path] = {}
    for tool in (made_of or versions()).tools:
        if not folder(tool).is_dir():
            raise LabError(f"{tool.name}: not built; run `python -m lab build` (once, about 10 minutes)")
        found |= {path.name: path for path in folder(tool).iterdir()}
    return found


def build(made_of: Versions) -> None:
    """Build what is missing, saying what, how far and about how long still.

    Raises:
        LabError: a build failed; those that ended before it are kept.
    """
    missing = [tool for tool in made_of.tools if not folder(tool).is_dir()]
    if not missing:
        return
    compiler = deps.go(made_of)
    remaining = sum(tool.seconds for tool in missing)
    done = len(made_of.tools) - len(missing)
    for number, tool in enumerate(missing, start=done + 1):
        label = f"[{number}/{len(made_of.tools)}] building {tool.name} {tool.version}"
        _build_one(tool, compiler, label, remaining)
        remaining -= tool.seconds


def _build_one(tool: Tool, compiler: str, label: str, remaining: float) -> None:
    target = folder(tool)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    scratch.mkdir(parents=True)
    argv = [compiler, "build", "-trimpath", "-ldflags", tool.ldflags, "-o", f"{scratch}/", *tool.packages]
    # The toolchain stays the one that was found: go.mod asks for no other, and the cache is keyed without it.
    env = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    try:
        _watch(argv, tool.folder, env, label, remaining)
        for path in list(scratch.iterdir()):
            path.rename(scratch / tool.rename.get(path.name, path.name))
        if not target.exists():
            scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _watch(argv: list[str], where: Path, env: dict[str, str], label: str, remaining: float) -> None:
    path = cache_dir() / f"build-{where.name}.log"
    begin = time.monotonic()
    with path.open("w") as output, subprocess.Popen(argv, cwd=where, env=env, stdout=output, stderr=output) as process:
        last = -30.0
        while process.poll() is None:
            spent = time.monotonic() - begin
            if spent - last >= (1 if sys.stderr.isatty() else 30):
                _say(
                    f"{label}, {spent:.0f} s, about {_left(remaining, spent)} still",
                    end="\r" if sys.stderr.isatty() else "\n",
                )
                last = spent
            time.sleep(0.2)
    if process.returncode:
        tail = " | ".join(path.read_text().strip().splitlines()[-3:])
        raise LabError(f"{label}: failed: {tail}; run `python -m lab build` again, it continues here (log: {path})")
    _say(f"{label}: done in {time.monotonic() - begin:.0f} s" + " " * 30)


def _left(remaining: float, spent: float) -> str:
    """Return the time that is left as text; a slower machine than the measured one shows at least 10 s."""
    seconds = max(remaining - spent, 10)
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


def _say(text: str, end: str = "\n") -> None:
    print(f"lab: {text}", end=end, file=sys.stderr, flush=True)
