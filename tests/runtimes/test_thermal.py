"""Temperatures over folders as kernels fill them."""

from __future__ import annotations

from pathlib import Path

from runtimes.thermal import hottest, temperatures


def zone(root: Path, number: int, kind: str, temp: str) -> None:
    folder = root / f"sys/class/thermal/thermal_zone{number}"
    folder.mkdir(parents=True)
    (folder / "type").write_text(kind + "\n")
    (folder / "temp").write_text(temp + "\n")


def test_the_hottest_zone_of_a_jetson(tmp_path: Path) -> None:
    zone(tmp_path, 0, "cpu-thermal", "48500")
    zone(tmp_path, 1, "gpu-thermal", "46281")
    zone(tmp_path, 9, "tj-thermal", "48812")
    assert hottest(tmp_path) == ("tj-thermal", 48.812)
    assert temperatures(tmp_path)["cpu-thermal"] == 48.5


def test_sensors_that_sleep_or_lie_are_left_out(tmp_path: Path) -> None:
    zone(tmp_path, 0, "gpu-thermal", "-256000")
    zone(tmp_path, 1, "acpitz", "0")
    zone(tmp_path, 2, "iwlwifi_1", "not available")
    assert hottest(tmp_path) is None
    zone(tmp_path, 3, "x86_pkg_temp", "61000")
    assert hottest(tmp_path) == ("x86_pkg_temp", 61.0)


def test_no_zone_is_no_figure(tmp_path: Path) -> None:
    assert hottest(tmp_path) is None
