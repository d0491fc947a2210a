"""What a Jetson tells about itself, read from `preflight.sh`'s lines, and advice for its owner.

The compute capability of each module is NVIDIA's (CUDA GPU Compute Capability table); L4T's own
release line looks like `# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, ...`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# Words of /proc/device-tree/model → module, CUDA architecture. `build_llama_cpp_jetson.sh` has the
# same table in shell; a test compares them.
MODULES: tuple[tuple[str, int], ...] = (
    ("Thor", 110),
    ("Orin", 87),
    ("Xavier", 72),
    ("TX2", 62),
    ("TX1", 53),
    ("Nano", 53),
)
# From this release of L4T 36 on, CUDA buffers can fail though memory is free (docs/devices.md).
NVMAP_SINCE = (36, 4, 7)


@dataclass(frozen=True)
class JetsonFacts:
    """`l4t` as NVIDIA writes it (36.4.3); `clocks` is `locked`, `free` or empty (not readable)."""

    board: str
    l4t: str
    cuda: str
    cuda_architecture: int | None
    power_mode: str
    clocks: str

    def advice(self) -> list[str]:
        """Commands that make figures higher and steadier, and known faults of the release."""
        said = []
        if self.power_mode and not self.power_mode.upper().startswith("MAXN"):
            said.append(
                f"power mode {self.power_mode}: figures are those of this mode; for the fastest: "
                "sudo nvpmodel -m 0 (the number may differ: sudo nvpmodel -p --verbose)"
            )
        if self.clocks == "free":
            said.append("clocks follow the load: steadier figures with: sudo jetson_clocks")
        if not self.cuda:
            said.append("no CUDA toolkit in /usr/local/cuda: sudo apt install nvidia-jetpack")
        numbers = tuple(map(int, re.findall(r"\d+", self.l4t)))
        if numbers[:1] == NVMAP_SINCE[:1] and numbers >= NVMAP_SINCE:
            said.append(
                f"L4T {self.l4t}: CUDA buffers can fail (NvMapMemAllocInternalTagged, error 12) "
                "though memory is free; if so, restart the device and test first, or run fewer "
                "layers on the GPU (docs/devices.md)"
            )
        return said


def jetson_facts(values: Mapping[str, str]) -> JetsonFacts | None:
    """None when the device is no Jetson."""
    board, l4t = values.get("board", ""), values.get("l4t", "")
    if not l4t and "jetson" not in board.lower():
        return None
    return JetsonFacts(
        board=board,
        l4t=l4t_release(l4t),
        cuda=values.get("cuda", ""),
        cuda_architecture=cuda_architecture(board),
        power_mode=values.get("power_mode", ""),
        clocks=values.get("clocks", ""),
    )


def l4t_release(line: str) -> str:
    """`36.4.3` from the first line of /etc/nv_tegra_release; empty when it is another line."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", line)
    return f"{found[1]}.{found[2]}" if found else ""


def cuda_architecture(board: str) -> int | None:
    """CMAKE_CUDA_ARCHITECTURES of a module: 87 for Orin, 53 for the first Nano."""
    return next((number for word, number in MODULES if word.lower() in board.lower()), None)
