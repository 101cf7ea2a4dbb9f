#!/usr/bin/env bash
# Runs tests under each of the given versions of Python that is found here, and says which were. Each has an environment of
# its own in `build/`, with the core, the extras `EXTRAS` and what runs tests. With no TESTS: those that depend most on the
# interpreter (event loop, threads, types read at run time, SQLite, syntax trees, the sandbox's children).
#
#     tests/pythons.sh "3.12 3.13" [TESTS...]
set -euo pipefail
cd "$(dirname "$0")/.."

EXTRAS=${EXTRAS:-math,answers,plot,serve}
TOOLS=(pytest pytest-asyncio hypothesis)
QUICK=(
    tests/test_accounts.py tests/test_concurrency.py tests/test_registry.py tests/test_solving.py
    tests/runs/test_database.py tests/runs/test_run.py::test_a_finished_run_resumes_without_a_request
    tests/verifiers/sandbox/test_codec.py tests/verifiers/test_assertions.py tests/verifiers/test_extraction.py
)

if [ $# -eq 0 ]; then
    echo "usage: $0 VERSIONS [TESTS...]" >&2
    exit 2
fi
versions=$1
shift
[ $# -gt 0 ] || set -- "${QUICK[@]}"

# The interpreter of version $1: on the path, among pyenv's, or uv's. A name on the path may be a mere shim that fails.
find_python() {
    local python
    for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1."*/bin/python \
        "${XDG_DATA_HOME:-$HOME/.local/share}/uv/python/cpython-$1"*/bin/python; do
        if "$python" -c "import sys, venv; sys.exit(f'{sys.version_info[0]}.{sys.version_info[1]}' != '$1')" 2>/dev/null; then
            echo "$python"
            return
        fi
    done
}

environment() { # PYTHON FOLDER
    if command -v uv >/dev/null; then
        uv venv --quiet --allow-existing --python "$1" "$2"
        uv pip install --quiet --python "$2/bin/python" --editable ".[$EXTRAS]" "${TOOLS[@]}"
    else
        "$1" -m venv "$2"
        "$2/bin/python" -m pip install --quiet --editable ".[$EXTRAS]" "${TOOLS[@]}"
    fi
}

ran=() missing=()
for version in $versions; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        missing+=("$version")
        continue
    fi
    "$python" --version
    environment "$python" "build/python$version"
    "build/python$version/bin/python" -m pytest -o filterwarnings=error::DeprecationWarning:tts "$@"
    ran+=("$version")
done
echo "Tested with Python: ${ran[*]:-none}. Not found here: ${missing[*]:-none}."
