#!/usr/bin/env bash
# Makes .venv with the exact tested versions, after checking what the machine must bring along.
#
# Missing commands are installed with apt-get where that exists and we are root; otherwise the
# script names the Debian packages and stops. $PYTHON chooses another Python 3.11.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3.11}
missing=()

has() { command -v "$1" >/dev/null 2>&1; }

# Names the Debian packages of all that is missing, in the array "missing".
look() {
    missing=()
    has g++ || missing+=(g++)
    has make || missing+=(make)
    has perl || missing+=(perl)
    if ! has "$python"; then
        missing+=(python3.11 python3.11-venv libpython3.11)
        return
    fi
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || missing+=(python3.11-venv)
    # Test benches run Python inside the simulator, which loads Python as a shared library.
    "$python" - <<'EOF' || missing+=(libpython3.11)
import ctypes, os, sys, sysconfig
library, folder, architecture = sysconfig.get_config_vars("INSTSONAME", "LIBDIR", "MULTIARCH")
for path in (library, os.path.join(folder, library), os.path.join(folder, architecture, library)):
    try:
        ctypes.CDLL(path)
    except OSError:
        continue
    sys.exit(0)
sys.exit(1)
EOF
}

look
if ((${#missing[@]})); then
    if ((EUID == 0)) && has apt-get; then
        echo "running as root: installing the Debian packages ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            "${missing[@]}" || echo "setup: apt-get could not install all of them" >&2
        look
    fi
    if ((${#missing[@]})); then
        echo "setup: missing; install these Debian packages, or the like: ${missing[*]}" >&2
        has "$python" || echo "setup: PYTHON=/path/to/python3.11 names one off the PATH" >&2
        exit 1
    fi
fi

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [[ $version != 3.11 ]]; then
    echo "setup: $python is Python $version, expected 3.11" >&2
    exit 1
fi

# An environment that an interruption left without pip is made anew.
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
# The build tools first: the package itself is then built with these very versions. All the rest
# comes in one step, with every version given, so that no other torch is ever considered.
echo "installing Python packages into .venv (1.7 GB from the network, a few minutes at first)"
pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check install -c constraints.txt)
"${pip[@]}" setuptools
"${pip[@]}" --no-build-isolation --editable '.[dev,fpga]'
.venv/bin/python -m pip check
