# Sourced by quickstart and test: makes a virtual environment that has ndtrain in it.
#
#   prepare_environment EXTRAS    e.g. "" or "dev"; afterwards $python is its interpreter
#
# NDTRAIN_VENV       where it is; default: .venv in the checkout
# NDTRAIN_PYTHON     the Python that makes it, 3.11 to 3.13; default: the newest that is found
# NDTRAIN_INDEX_URL  one more package index, for a CPU or a Neuron build of torch
# shellcheck shell=sh

root=$(cd "$(dirname "$0")/.." && pwd)
venv=${NDTRAIN_VENV:-$root/.venv}
python=$venv/bin/python

fail() { # WHAT HELP
    printf 'error: %s\n  help: %s\n' "$1" "$2" >&2
    exit 2
}

# An exit status alone: pyenv and macOS install commands that exist and only print advice.
is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null
}

find_python() {
    if [ -n "${NDTRAIN_PYTHON:-}" ]; then
        is_supported "$NDTRAIN_PYTHON" ||
            fail "NDTRAIN_PYTHON=$NDTRAIN_PYTHON is not Python 3.11 to 3.13" "name another, or unset it"
        found=$NDTRAIN_PYTHON
        return
    fi
    for found in python3.13 python3.12 python3.11 python3; do
        is_supported "$found" && return
    done
    fail "no Python 3.11, 3.12 or 3.13 on PATH" \
        "install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.12), or set NDTRAIN_PYTHON"
}

make_venv() {
    find_python
    "$found" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$found has no venv module" \
            "Debian and Ubuntu ship it apart: apt install $("$found" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    echo "making $venv with $("$found" --version)"
    "$found" -m venv "$venv"
}

# What decides the installed versions. A second start compares it and skips pip.
fingerprint() { # EXTRAS
    {
        cat "$root/pyproject.toml" "$root/launch/constraints.txt"
        echo "$root" "$1" "${NDTRAIN_INDEX_URL:-}"
    } | cksum
}

announce_download() {
    if [ "$(uname)" = Linux ] && [ -z "${NDTRAIN_INDEX_URL:-}" ] &&
        ! "$python" -c 'import torch' 2>/dev/null; then
        echo "On Linux, PyPI's torch brings CUDA along, several GB. A CPU build is 200 MB:"
        echo "  NDTRAIN_INDEX_URL=https://download.pytorch.org/whl/cpu $0"
    fi
}

prepare_environment() { # EXTRAS
    [ ! -e "$venv" ] || [ -x "$python" ] ||
        fail "$venv is not a virtual environment" "remove it, or set NDTRAIN_VENV to another place"
    [ -x "$python" ] || make_venv
    is_supported "$python" || fail "$venv has another Python than 3.11 to 3.13" "remove it"
    stamp=$venv/ndtrain-${1:-core}.stamp
    if [ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint "$1")" ]; then
        return
    fi
    announce_download
    echo "installing ndtrain into $venv"
    "$python" -m pip install --quiet --disable-pip-version-check \
        --constraint "$root/launch/constraints.txt" \
        ${NDTRAIN_INDEX_URL:+--extra-index-url "$NDTRAIN_INDEX_URL"} \
        --editable "$root${1:+[$1]}" ||
        fail "pip could not install ndtrain" "see its message above; NDTRAIN_INDEX_URL adds an index"
    fingerprint "$1" >"$stamp"
}
