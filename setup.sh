#!/bin/sh
# Install what the project needs: system packages through apt, once, and a virtual environment.
#
#     sh setup.sh [FOLDER]        FOLDER of the virtual environment, default .venv
#
# PYTHON names the interpreter (3.11 to 3.13). Nothing is installed twice.
set -eu

venv=${1:-.venv}
python=${PYTHON:-python3}
say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

# FFCV is compiled against OpenCV and libjpeg-turbo; the data set is the demo's.
compile="build-essential pkg-config libopencv-dev libturbojpeg0-dev"
packages="$compile python3-dev python3-venv dataset-fashion-mnist"

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

missing=""
if command -v apt-get >/dev/null 2>&1; then
    for package in $packages; do
        installed "$package" || missing="$missing $package"
    done
    if [ -n "$missing" ]; then
        root=""
        if [ "$(id -u)" -ne 0 ]; then
            command -v sudo >/dev/null 2>&1 ||
                fail "these system packages are missing, and there is neither root nor sudo to install them:$missing; have them installed (apt-get install$missing), then run this again"
            root="sudo"
        fi
        say "installing system packages through apt, once:$missing"
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086 # a list of words
        { $root apt-get update && $root apt-get install -y --no-install-recommends $missing; } >setup.log 2>&1 ||
            { tail -n 5 setup.log >&2; fail "apt could not install$missing (whole output in setup.log); install them by hand, then run this again"; }
        rm -f setup.log
    fi
else
    # No apt: go on if what FFCV compiles against is there; the data set is downloaded then.
    { command -v c++ && command -v pkg-config && pkg-config --exists opencv4 libturbojpeg; } >/dev/null 2>&1 ||
        fail "there is no apt here; install by hand what Debian calls $compile python3-dev python3-venv, then run this again"
fi

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null ||
    fail "$python is not Python 3.11, 3.12 or 3.13; name one with PYTHON=/path/to/python3.11"

if [ ! -x "$venv/bin/python" ]; then
    say "making the virtual environment $venv"
    "$python" -m venv "$venv"
fi
say "installing the Python packages of requirements.txt into $venv (a few minutes the first time)"
"$venv/bin/pip" install --quiet --upgrade 'pip>=25'
# torch comes first: with it in place nothing else pulls another build of it.
"$venv/bin/pip" install --quiet "$(grep '^torch==' requirements.txt)"
"$venv/bin/pip" install --quiet -r requirements.txt
"$venv/bin/pip" install -qq --no-deps -e .
say "done"
