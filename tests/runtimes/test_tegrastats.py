"""Power in lines as `tegrastats` writes them on the Jetson generations."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runtimes.energy import measuring
from runtimes.tegrastats import TegrastatsMeter, watts_of

ORIN_NANO = (
    "11-24-2026 22:10:31 RAM 2448/7620MB (lfb 2x4MB) SWAP 12/3810MB (cached 0MB) "
    "CPU [12%@1510,8%@1510,0%@729,0%@729,1%@729,0%@729] EMC_FREQ 1%@2133 GR3D_FREQ 0%@305 "
    "cpu@46.1C soc2@45.2C tj@46.4C soc0@44.1C gpu@45.8C VDD_IN 4952mW/4871mW "
    "VDD_CPU_GPU_CV 485mW/490mW VDD_SOC 1454mW/1449mW"
)
AGX_ORIN = (
    "RAM 3127/30536MB (lfb 5x4MB) CPU [0%@1190] GPU@42C VDD_GPU_SOC 3200mW/3200mW "
    "VDD_CPU_CV 800mW/900mW VIN_SYS_5V0 4000mW/4100mW"
)
NANO = (
    "RAM 1500/3956MB CPU [10%@1479] PLL@38C POM_5V_IN 2532/2610 POM_5V_GPU 40/41 POM_5V_CPU 406/450"
)
XAVIER = (
    "RAM 5/31927MB CPU [1%@1190] "
    "GPU 0/0 CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 155/155 SYS5V 1440/1440"
)


@pytest.mark.parametrize(
    ("line", "watts"),
    [(ORIN_NANO, 4.952), (AGX_ORIN, 8.0), (NANO, 2.532), (XAVIER, 2.838), ("RAM 1/2MB", None)],
)
def test_the_input_rail_else_the_sum_of_all(line: str, watts: float | None) -> None:
    assert watts_of(line) == (None if watts is None else pytest.approx(watts))


def test_it_reads_while_a_block_runs_and_ends_the_program(tmp_path: Path) -> None:
    program = tmp_path / "tegrastats"
    program.write_text(f'#!/bin/sh\nwhile :; do echo "{ORIN_NANO}"; sleep 0.05; done\n')
    program.chmod(0o755)
    start = time.perf_counter()
    with measuring(TegrastatsMeter(str(program))) as reading:
        time.sleep(0.3)
    assert reading.joules == pytest.approx(4.952 * (time.perf_counter() - start), rel=0.3)


def test_a_program_that_tells_nothing_gives_no_figure() -> None:
    with measuring(TegrastatsMeter("/bin/false")) as reading:
        pass
    assert reading.joules is None
