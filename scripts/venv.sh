# Create or reuse the virtual environment .venv. Source this file, do not run it: `. scripts/venv.sh` changes to the
# repository's root and sets $python to the environment's interpreter. Used by scripts/demo, test and check.
#
#   PYTHON=/path/to/python3.12   interpreter for a new .venv (3.11 or newer)
#   CI=true                      pip prints errors only

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python=.venv/bin/python

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" && echo "$PYTHON" && return
        echo "PYTHON=$PYTHON: expected Python 3.11 or newer." >&2
        return 2
    fi
    for candidate in python3.11 python3.12 python3.13 python3; do # tested on 3.11
        is_new_enough "$candidate" && echo "$candidate" && return
    done
    echo "Python 3.11 or newer not found: install it, or set PYTHON=/path/to/python." >&2
    return 2
}

make_environment() {
    local base stamp wanted quiet=()
    if ! is_new_enough "$python"; then
        base=$(find_python) || exit 2
        echo "Creating .venv with $("$base" --version) ..."
        "$base" -m venv --clear .venv || {
            echo "$base could not create a virtual environment (on Debian and Ubuntu: apt install python3-venv)." >&2
            exit 2
        }
    fi
    # The environment is complete if this file contains the checksum of the requirements.
    stamp=.venv/installed-from
    wanted=$(cat pyproject.toml constraints.txt | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        echo "Using the packages installed in .venv."
        return
    fi
    [ "${CI:-}" = true ] && quiet=(--quiet --progress-bar off)
    echo "Installing the requirements into .venv (takes minutes the first time) ..."
    "$python" -m pip install --disable-pip-version-check ${quiet[@]+"${quiet[@]}"} \
        -c constraints.txt -e '.[dev,imagenet,opencv]' || {
        echo "Installation failed, see pip's output above. Run the same command to retry." >&2
        exit 1
    }
    echo "$wanted" > "$stamp"
}

make_environment
