#!/bin/sh
# Makes the Python environment of the lock file and prints its folder.
#
# Needs python3 (3.11 to 3.13) and nothing else: uv comes from PyPI. Everything goes into the cache,
# keyed by the lock, so every checkout with the same lock shares one environment.
set -eu
UV_VERSION=0.13.9
cache=${INTERNLM2_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/internlm2}
top=$(cd "$(dirname "$0")/.." && pwd)
say() { printf '%s\n' "bootstrap: $*" >&2; }
give_up() { say "$*"; exit 2; }

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
    give_up "$python is $("$python" -V 2>&1); Python 3.11 to 3.13 is needed: set PYTHON=python3.11"

# Debian splits venv off python3, so ask for it only where it is missing.
uv=$cache/uv-$UV_VERSION/bin/uv
if [ ! -x "$uv" ]; then
    say "installing uv $UV_VERSION"
    rm -rf "$cache/uv-$UV_VERSION"
    if ! "$python" -m venv "$cache/uv-$UV_VERSION" >/dev/null 2>&1; then
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
            give_up "python3 has no venv module: install it (Debian: python3-venv) and run this again"
        say "installing python3-venv"
        { apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-venv; } >/dev/null 2>&1 ||
            give_up "apt-get could not install python3-venv: run 'apt-get install python3-venv' to see why"
        rm -rf "$cache/uv-$UV_VERSION"
        "$python" -m venv "$cache/uv-$UV_VERSION"
    fi
    "$cache/uv-$UV_VERSION/bin/pip" install -q --disable-pip-version-check "uv==$UV_VERSION" ||
        give_up "uv could not be installed: is the package index reachable? Run this again to go on"
fi

version=$("$python" -c 'import sys; print(sys.version.split()[0])')
key=$({ cat "$top/uv.lock"; "$python" -c 'import sys; print(sys.base_prefix)'; } | sha256sum | cut -c1-12)
venv=$cache/venv-$version-$key
if [ ! -e "$venv/.complete" ]; then
    say "installing the locked Python packages, about 3 GB (torch brings CUDA): 2 to 6 minutes"
    # The package itself stays out of the environment (PYTHONPATH names the checkout), or two
    # checkouts with one lock would overwrite each other's. Bytecode is compiled once, here: in the
    # lab's containers the environment is read-only.
    (cd "$top" && UV_PROJECT_ENVIRONMENT=$venv UV_PYTHON_DOWNLOADS=never UV_HTTP_TIMEOUT=300 "$uv" sync \
        --frozen --no-install-project --extra dev --compile-bytecode --python "$python" >&2) ||
        give_up "uv sync failed, see above: run the same command again, it continues where it stopped"
    touch "$venv/.complete"
fi
printf '%s\n' "$venv"
