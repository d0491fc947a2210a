#!/usr/bin/env bash
# Build llama.cpp with CUDA on a Jetson, for its module's GPU. Runs on the device, changes no setting:
#
#   scp scripts/build_llama_cpp_jetson.sh user@orin: && ssh user@orin ./build_llama_cpp_jetson.sh
#   build_llama_cpp_jetson.sh --dry-run            # what it found, and the commands; nothing is done
#   build_llama_cpp_jetson.sh --prefix DIR         # default: ~/.local/llama.cpp, where smoke tests look
#   build_llama_cpp_jetson.sh --sdist FILE         # a source that was brought along: no network needed
#
# The source is llama.cpp as llama-cpp-python's sdist vendors it: the revision that made the bundle.
# A finished build of the same revision and GPU is kept. Exit code: 0 built or there already, 2 this
# device cannot (with the mend), else the build's.
# Written from NVIDIA's and llama.cpp's documentation and tested on made-up devices only, not on a
# real Jetson (docs/devices.md).
set -euo pipefail

PIN=0.3.36
SHA256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
MB_PER_JOB=1700   # one nvcc of a large kernel
MIN_DISK_MB=4000

root=${EDGEFORGE_ROOT:-}   # a made-up device's files, for tests
prefix=$HOME/.local/llama.cpp
sdist=
dry=

fail() {
    echo "error: $1" >&2
    echo "hint: $2" >&2
    exit 2
}
note() { echo "note: $1" >&2; }
do_it() {
    printf '+' && printf ' %q' "$@" && printf '\n'
    [ -n "$dry" ] || "$@"
}

while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry=yes ;;
        --prefix) prefix=${2:?"--prefix needs a folder"} && shift ;;
        --sdist) sdist=${2:?"--sdist needs a file"} && shift ;;
        -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
        *) fail "unknown option $1" "see --help" ;;
    esac
    shift
done

# --- which device

architecture() {  # of the module's GPU; the table of runtimes/remote/jetson.py
    case $(tr '[:upper:]' '[:lower:]' <<<"$1") in
        *thor*) echo 110 ;;
        *orin*) echo 87 ;;
        *xavier*) echo 72 ;;
        *tx2*) echo 62 ;;
        *tx1*) echo 53 ;;
        *nano*) echo 53 ;;
    esac
}

board=$(tr -d '\0' <"$root/proc/device-tree/model" 2>/dev/null || true)
[ -r "$root/etc/nv_tegra_release" ] || [ -n "$(architecture "$board")" ] ||
    fail "this is no Jetson (board: ${board:-unknown})" "run it on the device: ssh USER@HOST ./$(basename "$0")"
gpu=$(architecture "$board")
[ -n "$gpu" ] || fail "the Jetson module '$board' is not known" "update this script's table: CMAKE_CUDA_ARCHITECTURES of the module"
l4t=$(sed -n 's/^# R\([0-9]*\) (release), REVISION: \([0-9.]*\).*/\1.\2/p' "$root/etc/nv_tegra_release" 2>/dev/null | head -n 1)
echo "board: $board; L4T ${l4t:-unknown}; CUDA architecture $gpu"

# --- which CUDA

cuda=$root/usr/local/cuda
[ -x "$cuda/bin/nvcc" ] || fail "no CUDA toolkit: $cuda/bin/nvcc is missing" "sudo apt update && sudo apt install nvidia-jetpack"
version=$(sed -n 's/.*"version" *: *"\([0-9.]*\)".*/\1/p' "$cuda/version.json" 2>/dev/null | head -n 1)
[ -n "$version" ] || version=$(sed -n 's/^CUDA Version *//p' "$cuda/version.txt" 2>/dev/null | head -n 1)
echo "CUDA ${version:-unknown} in $cuda"
# Before Thor, L4T's libraries lie in targets/aarch64-linux; sbsa-linux is the toolkit for Arm servers
# with a PCIe card. It compiles, and its programs fail at run time.
if [ "$gpu" -lt 110 ] && [ -d "$cuda/targets/sbsa-linux" ] && [ ! -d "$cuda/targets/aarch64-linux" ]; then
    fail "$cuda is the toolkit for Arm servers (sbsa), not L4T's" \
        "remove it, then: sudo apt install nvidia-jetpack"
fi
[ ! -d "$cuda/targets/x86_64-linux" ] || [ -d "$cuda/targets/aarch64-linux" ] ||
    fail "$cuda is a desktop's toolkit (x86_64)" "sudo apt install nvidia-jetpack"
for stray in libcudart.so libcublas.so; do
    for folder in ${LD_LIBRARY_PATH:+${LD_LIBRARY_PATH//:/ }}; do
        if ls "$folder/$stray"* >/dev/null 2>&1 && [[ $folder != "$cuda"* && $folder != /usr/lib/aarch64-linux-gnu* ]]; then
            note "LD_LIBRARY_PATH has $stray in $folder (Ollama's or a pip package's?): it would win over L4T's"
        fi
    done
done
if [ "$(printf '%s\n' 36.4.7 "${l4t:-0}" | sort -V | head -n 1)" = 36.4.7 ] && [ "${l4t%%.*}" = 36 ]; then
    note "L4T $l4t: CUDA buffers can fail (NvMapMemAllocInternalTagged, error 12) though memory is free; see docs/devices.md"
fi

# --- which memory

megabytes() { awk -v key="$1:" '$1 == key { printf "%d", $2 / 1024 }' "$root/proc/meminfo"; }
memory=$(megabytes MemAvailable)
swap=$(megabytes SwapFree)
zram=$(awk '$1 ~ /zram/ { sum += $3 } END { printf "%d", sum / 1024 }' "$root/proc/swaps" 2>/dev/null || echo 0)
disk_swap=$((swap > zram ? swap - zram : 0))
cores=$(nproc)
jobs=$(((memory + disk_swap / 2) / MB_PER_JOB))
[ "$jobs" -le "$cores" ] || jobs=$cores
if [ "$jobs" -lt 1 ]; then
    fail "not enough memory to compile: $memory MB available, $MB_PER_JOB MB needed" \
        "close the desktop (sudo systemctl isolate multi-user.target) or add swap on disk: sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile"
fi
[ "$disk_swap" -gt 0 ] || note "no swap on disk (zram: $zram MB): a compiler may be killed on a small board"
echo "$memory MB memory available, $swap MB swap ($zram MB of it zram): $jobs jobs"

# --- build

stamp="$prefix/.built"
wanted="$PIN $SHA256 cuda-$version sm-$gpu"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    echo "llama.cpp is there: $prefix/bin"
    exit 0
fi
work=$prefix/work
if [ -z "$dry" ]; then
    for program in cmake g++ awk sha256sum; do
        command -v "$program" >/dev/null || fail "$program is missing" "sudo apt install build-essential cmake"
    done
    mkdir -p "$work"
    free=$(df -Pm "$work" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$MIN_DISK_MB" ] || fail "not enough disk: $MIN_DISK_MB MB needed, $free MB free in $prefix" "--prefix DIR on a larger disk"
fi
if [ -z "$sdist" ]; then
    sdist=$work/llama_cpp_python-$PIN.tar.gz
    do_it python3 -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest "$work" "llama-cpp-python==$PIN" ||
        [ -f "$sdist" ] || fail "the source cannot be downloaded" "sudo apt install python3-pip; or bring the file along: --sdist llama_cpp_python-$PIN.tar.gz"
fi
if [ -z "$dry" ]; then
    echo "$SHA256  $sdist" | sha256sum --check --quiet || fail "$sdist is not the pinned source" "remove it and try again"
fi
do_it tar -xzf "$sdist" -C "$work" --strip-components=3 --wildcards '*/vendor/llama.cpp/*'
export PATH="$cuda/bin:$PATH"
do_it cmake -S "$work" -B "$work/build" -DCMAKE_BUILD_TYPE=Release \
    -DGGML_CUDA=ON "-DCMAKE_CUDA_ARCHITECTURES=$gpu" "-DCMAKE_CUDA_COMPILER=$cuda/bin/nvcc" \
    -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON \
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF
do_it cmake --build "$work/build" --parallel "$jobs" --target llama-server llama-cli llama-bench
do_it mkdir -p "$prefix/bin"
do_it cp "$work/build/bin/llama-server" "$work/build/bin/llama-cli" "$work/build/bin/llama-bench" "$prefix/bin/"
if [ -z "$dry" ]; then
    "$prefix/bin/llama-server" --version >/dev/null 2>&1 ||
        fail "the program was built but does not run" "see: $prefix/bin/llama-server --version"
    echo "$wanted" >"$stamp"
    rm -rf "$work"
    echo "llama.cpp: $prefix/bin (smoke tests look there)"
fi
