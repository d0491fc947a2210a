#!/usr/bin/env bash
# Build llama.cpp for aarch64 on this machine, to run under qemu-user: `make test-aarch64`.
#
#   scripts/cross_build_aarch64.sh DEST        DEST/bin/llama-simple, -completion, -perplexity
#
# The source is llama.cpp as llama-cpp-python's sdist vendors it, the revision of the runtime; with
# LLAMA_CPP_SDIST=FILE that file is taken, else pip downloads it. About 10 minutes on two cores, once:
# a finished build of the same revision is kept. Debian: apt install g++-aarch64-linux-gnu qemu-user
# Exit code: 0 built or there already, 3 a program is missing (the test then skips), else the build's.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
dest=${1:?"usage: $0 DEST"}
pin=$(grep -oE '^llama-cpp-python==[0-9.]+' "$root/requirements.lock")
digest=$(grep -A1 "^$pin " "$root/requirements.lock" | grep -oE '[0-9a-f]{64}')
programs=(llama-simple llama-completion llama-perplexity)
stamp="$dest/.built"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$pin $digest ${programs[*]}" ]; then
    echo "llama.cpp for aarch64 ($pin) is there: $dest/bin" >&2
    exit 0
fi
for program in aarch64-linux-gnu-g++ qemu-aarch64 cmake; do
    if ! command -v "$program" >/dev/null; then
        echo "error: $program is missing" >&2
        echo "hint: Debian: apt install g++-aarch64-linux-gnu qemu-user cmake" >&2
        exit 3
    fi
done

mkdir -p "$dest"
dest=$(cd "$dest" && pwd)
work="$dest/work"
mkdir -p "$work"
sdist=${LLAMA_CPP_SDIST:-}
if [ -z "$sdist" ]; then
    python=python3
    [ ! -x "$root/.venv/bin/python" ] || python="$root/.venv/bin/python"
    "$python" -m pip download --quiet --no-deps --no-build-isolation --no-binary llama-cpp-python \
        --dest "$work" "$pin"
    sdist=$(ls "$work"/llama_cpp_python-*.tar.gz)
fi
echo "$digest  $sdist" | sha256sum --check --quiet
tar -xzf "$sdist" -C "$work" --strip-components=3 --wildcards '*/vendor/llama.cpp/*'

generator=()
! command -v ninja >/dev/null || generator=(-G Ninja)
# Static, so that the emulator needs nothing but the C library; the instructions of an Orin's cores.
nice -n 19 cmake -S "$work" -B "$work/build" "${generator[@]}" \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF \
    -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16 \
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=ON -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_APP=OFF >"$work/configure.log"
nice -n 19 cmake --build "$work/build" --target "${programs[@]}" --parallel "${JOBS:-2}" >"$work/build.log"
mkdir -p "$dest/bin"
for program in "${programs[@]}"; do
    cp "$work/build/bin/$program" "$dest/bin/"
done
rm -rf "$work"
echo "$pin $digest ${programs[*]}" >"$stamp"
echo "llama.cpp for aarch64 ($pin): $dest/bin" >&2
