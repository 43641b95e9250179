# Create or reuse the virtual environment .venv. Source this file, do not run it: `. scripts/venv.sh` changes to the
# repository's root and sets $python to the environment's interpreter. Used by scripts/demo, test and check.
#
#   PYTHON=/path/to/python3.12   interpreter for a new .venv (3.11 or newer)

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

# Show the minutes and the size of .venv while the process $1 runs.
show_time() {
    local seconds=0
    while sleep 5 && kill -0 "$1" 2> /dev/null; do
        seconds=$((seconds + 5))
        printf '\r  %d:%02d min, %s installed ' $((seconds / 60)) $((seconds % 60)) "$(du -sh .venv | cut -f1)"
    done
}

make_environment() {
    local base stamp wanted ticker failed=false log=.venv/install.log
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
    echo "Installing the requirements into .venv (several GB, minutes the first time); pip's output is in $log ..."
    [ ! -t 1 ] || show_time $$ &
    ticker=$!
    "$python" -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev,imagenet,opencv]' \
        > "$log" 2>&1 || failed=true
    kill "$ticker" 2> /dev/null || true
    [ ! -t 1 ] || echo
    if [ "$failed" = true ]; then
        tail -n 15 "$log" >&2
        echo "Installation failed, see the end of pip's output above. Run the same command to retry." >&2
        exit 1
    fi
    echo "$wanted" > "$stamp"
}

make_environment
