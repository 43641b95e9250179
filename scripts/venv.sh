# Makes or reuses .venv. Sourced, not run: `. scripts/venv.sh` leaves the shell in the repository's root with
# $python set to the environment's interpreter. Used by scripts/demo, scripts/test and scripts/check.
#
#   PYTHON=/path/to/python3.12   the interpreter to make .venv with (any 3.11 or newer)
#   CI=true                      pip says only what goes wrong

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python=.venv/bin/python

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" && echo "$PYTHON" && return
        echo "PYTHON=$PYTHON is not a Python of version 3.11 or newer." >&2
        return 2
    fi
    for candidate in python3.11 python3.12 python3.13 python3; do # tested on 3.11
        is_new_enough "$candidate" && echo "$candidate" && return
    done
    echo "No Python 3.11 or newer was found: install one, or name it with PYTHON=/path/to/python." >&2
    return 2
}

make_environment() {
    local base stamp wanted quiet=()
    if ! is_new_enough "$python"; then
        base=$(find_python) || exit 2
        echo "Making .venv with $("$base" --version) ..."
        "$base" -m venv --clear .venv || {
            echo "$base cannot make an environment (on Debian and Ubuntu: apt install python3-venv)." >&2
            exit 2
        }
    fi
    # The environment is complete when this stamp holds the checksum of the files that describe it.
    stamp=.venv/installed-from
    wanted=$(cat pyproject.toml constraints.txt | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        echo "Using the packages in .venv."
        return
    fi
    [ "${CI:-}" = true ] && quiet=(--quiet --progress-bar off)
    echo "Installing what pyproject.toml asks for into .venv (the first time, some minutes) ..."
    "$python" -m pip install --disable-pip-version-check ${quiet[@]+"${quiet[@]}"} \
        -c constraints.txt -e '.[dev,tracking,imagenet,opencv]' || {
        echo "The installation failed: see pip's words above; running this again goes on from there." >&2
        exit 1
    }
    echo "$wanted" > "$stamp"
}

make_environment
