# What a device is and has, as key=value lines, for `runtimes/remote/preflight.py`.
# POSIX sh, reads only. Before it come lines that set FOLDER (where bundles go), PYTHON and ROOT (a
# folder with a stand-in for /proc, /sys, /etc and /usr, for tests; empty on a device).

say() { printf '%s=%s\n' "$1" "$(printf '%s' "$2" | tr '\n\r\0' '   ')"; }
first_line() { sed -n 1p "$1" 2>/dev/null | tr -d '\0'; }
meminfo() { awk -v key="$1:" '$1 == key { printf "%.0f", $2 * 1024 }' "$ROOT/proc/meminfo" 2>/dev/null; }
limited() { if command -v timeout >/dev/null 2>&1; then timeout 5 "$@"; else "$@"; fi; }

echo "edgeforge-preflight begin"
# Non-interactive shells often lack these; llama.cpp's place is that of build_llama_cpp_jetson.sh.
PATH="$PATH:$HOME/.local/bin:$HOME/.local/llama.cpp/bin:/usr/local/bin:/usr/local/cuda/bin:/usr/sbin"
PATH="$PATH:$HOME/llama.cpp/build/bin:/opt/llama.cpp/bin"
export PATH
say path "$PATH"
say arch "$(uname -m)"
say kernel "$(uname -sr)"
say system "$(sed -n 's/^PRETTY_NAME="\{0,1\}\([^"]*\).*/\1/p' "$ROOT/etc/os-release" 2>/dev/null)"
say cores "$(getconf _NPROCESSORS_ONLN 2>/dev/null)"
say memory_total_bytes "$(meminfo MemTotal)"
say memory_available_bytes "$(meminfo MemAvailable)"
say swap_total_bytes "$(meminfo SwapTotal)"
say swap_free_bytes "$(meminfo SwapFree)"
say zram_bytes "$(awk '$1 ~ /zram/ { sum += $3 * 1024 } END { printf "%.0f", sum }' "$ROOT/proc/swaps" 2>/dev/null)"

# shellcheck disable=SC2088 # a tilde as it was typed
case "$FOLDER" in
  '~/'*) place="$HOME/${FOLDER#'~/'}" ;;
  /*) place="$FOLDER" ;;
  *) place="$HOME/$FOLDER" ;;
esac
while [ ! -d "$place" ] && [ "$place" != / ] && [ -n "$place" ]; do place=$(dirname "$place"); done
say disk_place "$place"
say disk_free_bytes "$(df -Pk "$place" 2>/dev/null | awk 'NR == 2 { printf "%.0f", $4 * 1024 }')"
if [ -w "$place" ]; then say disk_writable yes; else say disk_writable no; fi

for program in rsync llama-server llama-cli ollama nvidia-smi; do
  found=$(command -v "$program" 2>/dev/null) || found=
  say "program_$program" "$found"
done
if command -v llama-server >/dev/null 2>&1; then
  say version_llama-server "$(limited llama-server --version 2>&1 | sed -n 's/^version: *//p' | sed -n 1p)"
fi
if command -v llama-cli >/dev/null 2>&1; then
  say version_llama-cli "$(limited llama-cli --version 2>&1 | sed -n 's/^version: *//p' | sed -n 1p)"
fi
if command -v ollama >/dev/null 2>&1; then
  say version_ollama "$(limited ollama --version 2>/dev/null | sed -n 's/.*version is *//p' | sed -n 1p)"
fi

# Jetson: each line stays empty elsewhere.
say board "$(first_line "$ROOT/proc/device-tree/model")"
say l4t "$(first_line "$ROOT/etc/nv_tegra_release")"
if [ -r "$ROOT/etc/nv_tegra_release" ]; then
  cuda=$(sed -n 's/.*"version" *: *"\([0-9.]*\)".*/\1/p' "$ROOT/usr/local/cuda/version.json" 2>/dev/null | sed -n 1p)
  [ -n "$cuda" ] || cuda=$(sed -n 's/^CUDA Version *//p' "$ROOT/usr/local/cuda/version.txt" 2>/dev/null)
  say cuda "$cuda"
  nvpmodel=$(command -v nvpmodel 2>/dev/null) || nvpmodel=
  [ -z "$nvpmodel" ] || say power_mode "$(limited "$nvpmodel" -q 2>/dev/null | sed -n 's/^NV Power Mode: *//p')"
  # `jetson_clocks --show` needs root; locked clocks show in the GPU's devfreq limits too.
  for gpu in "$ROOT"/sys/class/devfreq/*gpu* "$ROOT"/sys/class/devfreq/*ga10b* "$ROOT"/sys/class/devfreq/*gv11b*; do
    [ -r "$gpu/min_freq" ] || continue
    if [ "$(cat "$gpu/min_freq")" = "$(cat "$gpu/max_freq")" ]; then say clocks locked; else say clocks free; fi
    break
  done
fi

if command -v "$PYTHON" >/dev/null 2>&1; then
  "$PYTHON" -c '
import sys
print("python=" + (sys.executable or ""))
print("python_version=%d.%d.%d" % sys.version_info[:3])
print("python_bits=%d" % (64 if sys.maxsize > 2**32 else 32))
if sys.version_info >= (3, 8):
    import importlib.util
    import os
    from importlib.metadata import PackageNotFoundError, version
    names = {"llama_cpp": ["llama-cpp-python"], "tokenizers": ["tokenizers"], "numpy": ["numpy"],
             "onnxruntime": ["onnxruntime", "onnxruntime-gpu"],
             "onnxruntime_genai": ["onnxruntime-genai", "onnxruntime-genai-cuda"]}
    for module, packages in names.items():
        if importlib.util.find_spec(module) is None:
            continue
        known = "unknown"
        for package in packages:
            try:
                known = version(package)
                break
            except PackageNotFoundError:
                pass
        print("module_%s=%s" % (module, known))
    import http.client
    import json
    place = os.environ.get("OLLAMA_HOST", "").split("://")[-1].strip("/") or "127.0.0.1:11434"
    name, _, port = place.rpartition(":")
    try:
        api = http.client.HTTPConnection(name or place, int(port) if name else 11434, timeout=1)
        api.request("GET", "/api/version")
        print("ollama_api=" + str(json.loads(api.getresponse().read())["version"]))
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        pass
' 2>/dev/null
fi
echo "edgeforge-preflight end"
