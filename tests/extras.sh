#!/usr/bin/env bash
# `make extras`: what some tests skip for want of, and then these tests. What cannot be had is named, and its tests skip.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
other=${OTHER_PYTHON:-python3.13}
missing() { echo "extras: no $1 here: $2" >&2; }

echo 'Installing the extras fuzz, plots and dask ...'
install=(-m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable)
"$python" "${install[@]}" '.[dev,fuzz,plots,dask]' || missing 'fuzz, plots or dask' 'pip could not install them'

if ! command -v chromium >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Debian's Chromium ..."
    { timeout 60 apt-get update -qq &&
      DEBIAN_FRONTEND=noninteractive timeout 240 apt-get install -qq -y --no-install-recommends chromium; } \
      >/dev/null 2>&1 || missing Chromium 'apt-get could not install it'
  else
    missing Chromium 'install it, or run this as root on Debian'
  fi
fi

# A shim of pyenv answers only for a version that is chosen.
if ! "$other" -c '' 2>/dev/null && command -v pyenv >/dev/null; then
  PYENV_VERSION=$(pyenv whence "$other" 2>/dev/null | tail -n 1) && export PYENV_VERSION
fi
if "$other" -c '' 2>/dev/null; then
  echo "Installing for $other ..."
  if { [ -x .venv/other/bin/python ] || "$other" -m venv .venv/other; } && .venv/other/bin/python "${install[@]}" .; then
    export EDGELATTICE_OTHER_PYTHON=$PWD/.venv/other/bin/python
  else
    missing "packages for $other" 'they could not be installed'
  fi
else
  missing "$other" 'OTHER_PYTHON=... names another one'
fi

unset PYENV_VERSION
export EDGELATTICE_NAMESPACES=1
exec .venv/bin/pytest -m extras "$@"
