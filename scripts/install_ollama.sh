#!/usr/bin/env bash
# Build Ollama from its Go module (CPU only), for machines and CI jobs without one.
#
#   scripts/install_ollama.sh [DEST]       DEST: folder of the program (default: .venv/bin; other
#                                          versions: .venv/share/edgeforge/ollama/VERSION)
#
# Variables: OLLAMA_VERSION (default 0.17.4), OLLAMA_HEADERS: the folder vendor/ of a llama.cpp
# checkout, for headers that the module lacks (default: where set-up puts it).
# Exit code: 0 built or there already, 3 no Go or no headers (tests with a real Ollama then skip),
# else the build's.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
default=0.17.4
version=${OLLAMA_VERSION:-$default}
place=$root/.venv/bin
# Tests run every version that lies here.
[ "$version" = "$default" ] || place=$root/.venv/share/edgeforge/ollama/$version
dest=${1:-$place}
headers=${OLLAMA_HEADERS:-$root/.venv/share/edgeforge/llama.cpp/vendor}

if [ -x "$dest/ollama" ]; then
    # No server answers at this address, so only the program's own version is printed.
    found=$(OLLAMA_HOST=127.0.0.1:1 "$dest/ollama" --version 2>&1 | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | tail -n 1 || true)
    if [ "$found" = "$version" ]; then
        echo "Ollama $version is there: $dest/ollama"
        exit 0
    fi
fi

if ! command -v go >/dev/null; then
    echo "error: building Ollama needs Go, which is not installed" >&2
    echo "hint: install Go 1.24 or newer, or get Ollama from https://ollama.com/download" >&2
    exit 3
fi
if [ ! -f "$headers/nlohmann/json.hpp" ]; then
    echo "error: $headers lacks nlohmann/json.hpp, which Ollama's C++ needs" >&2
    echo "hint: run set-up first, or name the vendor folder of a llama.cpp checkout with OLLAMA_HEADERS" >&2
    exit 3
fi

mkdir -p "$dest"
dest=$(cd "$dest" && pwd)
work=$(mktemp -d "$dest/.ollama-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "building Ollama $version (1 to 10 minutes) …" >&2
# The module reports version 0.0.0 unless it is linked in.
GOBIN="$work" CGO_ENABLED=1 CGO_CPPFLAGS="-I$headers" CGO_CXXFLAGS="-O2 -I$headers" \
    go install -trimpath -ldflags "-s -w -X github.com/ollama/ollama/version.Version=$version" \
    "github.com/ollama/ollama@v$version"
mv -f "$work/ollama" "$dest/ollama"
echo "Ollama $version: $dest/ollama"
