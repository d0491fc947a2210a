"""Energy meters over folders as kernels fill them: RAPL domains, wrapping, a Jetson's rails."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runtimes.energy import (
    BatteryMeter,
    RailMeter,
    RaplMeter,
    find_meter,
    measuring,
    why_no_meter,
)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def rapl(root: Path, package: int = 1000, dram: int = 500) -> Path:
    base = "sys/class/powercap/"
    return write(
        root,
        {
            f"{base}intel-rapl:0/name": "package-0\n",
            f"{base}intel-rapl:0/energy_uj": f"{package}\n",
            f"{base}intel-rapl:0/max_energy_range_uj": "262143328850\n",
            f"{base}intel-rapl:0:0/name": "core\n",
            f"{base}intel-rapl:0:0/energy_uj": "900\n",
            f"{base}intel-rapl:0:0/max_energy_range_uj": "262143328850\n",
            f"{base}intel-rapl:0:1/name": "dram\n",
            f"{base}intel-rapl:0:1/energy_uj": f"{dram}\n",
            f"{base}intel-rapl:0:1/max_energy_range_uj": "65712999613\n",
            f"{base}intel-rapl:1/name": "psys\n",
            f"{base}intel-rapl:1/energy_uj": "77\n",
            f"{base}intel-rapl:1/max_energy_range_uj": "262143328850\n",
        },
    )


def ina3221(root: Path) -> Path:
    base = "sys/class/hwmon/hwmon3/"
    return write(
        root,
        {
            "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
            f"{base}name": "ina3221\n",
            f"{base}in1_label": "VDD_IN\n",
            f"{base}in1_input": "5000\n",
            f"{base}curr1_input": "2000\n",
            f"{base}in2_label": "VDD_CPU_GPU_CV\n",
            f"{base}in2_input": "5000\n",
            f"{base}curr2_input": "800\n",
            f"{base}in7_label": "sum of shunt voltages\n",
            f"{base}in7_input": "9\n",
        },
    )


def test_rapl_counts_packages_and_memory_but_no_part_twice(tmp_path: Path) -> None:
    meter = find_meter(rapl(tmp_path))
    assert isinstance(meter, RaplMeter)
    assert meter.source == "RAPL package-0 + package-0/dram"
    with measuring(meter) as reading:
        rapl(tmp_path, package=3_001_000, dram=500_500)
    assert reading.joules == pytest.approx(3.5)


def test_a_counter_that_wrapped_is_set_right(tmp_path: Path) -> None:
    meter = find_meter(rapl(tmp_path, package=262_143_328_850))
    with measuring(meter) as reading:
        rapl(tmp_path, package=999_999)
    assert reading.joules == pytest.approx(1.0)


def test_a_jetson_s_input_rail_is_volts_times_amperes_over_time(tmp_path: Path) -> None:
    meter = find_meter(ina3221(tmp_path))
    assert isinstance(meter, RailMeter) and meter.source == "INA3221 VDD_IN"
    start = time.perf_counter()
    with measuring(meter) as reading:
        time.sleep(0.15)
    elapsed = time.perf_counter() - start
    assert reading.joules is not None and 0.13 * 10 < reading.joules <= elapsed * 10


def test_rails_without_a_named_input_are_summed(tmp_path: Path) -> None:
    root = ina3221(tmp_path)
    (root / "sys/class/hwmon/hwmon3/in1_label").write_text("VDD_GPU\n")
    meter = find_meter(root)
    assert meter is not None and meter.source == "INA3221 VDD_GPU + VDD_CPU_GPU_CV"


def test_nothing_to_read_is_no_reading(tmp_path: Path) -> None:
    assert find_meter(tmp_path) is None
    with measuring(None) as reading:
        pass
    assert reading.joules is None


def test_a_counter_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    root = rapl(tmp_path)
    for name in ("intel-rapl:0", "intel-rapl:0:1"):
        (root / f"sys/class/powercap/{name}/energy_uj").unlink()
    assert find_meter(root) is None


def test_a_meter_that_goes_away_gives_no_figure(tmp_path: Path) -> None:
    root = rapl(tmp_path)
    with measuring(find_meter(root)) as reading:
        (root / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    assert reading.joules is None


def test_the_rails_of_an_agx_board_are_summed(tmp_path: Path) -> None:
    base = "sys/class/hwmon/hwmon2/"
    files = {f"{base}name": "ina3221\n"}
    for number, (name, amperes) in enumerate(
        [("VDD_GPU_SOC", 600), ("VDD_CPU_CV", 200), ("VIN_SYS_5V0", 700)], 1
    ):
        files[f"{base}in{number}_label"] = name + "\n"
        files[f"{base}in{number}_input"] = "5000\n"
        files[f"{base}curr{number}_input"] = f"{amperes}\n"
    meter = find_meter(write(tmp_path, files))
    assert isinstance(meter, RailMeter)
    assert sum(rail.watts() for rail in meter.rails) == pytest.approx(7.5)


def test_jetpack_4_has_its_rails_elsewhere(tmp_path: Path) -> None:
    base = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/"
    files = {
        f"{base}rail_name_0": "POM_5V_IN\n",
        f"{base}in_voltage0_input": "5000\n",
        f"{base}in_current0_input": "500\n",
        f"{base}rail_name_1": "POM_5V_GPU\n",
        f"{base}in_voltage1_input": "5000\n",
        f"{base}in_current1_input": "10\n",
    }
    meter = find_meter(write(tmp_path, files))
    assert meter is not None and meter.source == "INA3221 POM_5V_IN"
    assert isinstance(meter, RailMeter) and meter.rails[0].watts() == 2.5


def battery(root: Path, status: str = "Discharging") -> Path:
    base = "sys/class/power_supply/"
    return write(
        root,
        {
            f"{base}AC/type": "Mains\n",
            f"{base}hidpp_battery_0/type": "Battery\n",
            f"{base}hidpp_battery_0/scope": "Device\n",
            f"{base}BAT0/type": "Battery\n",
            f"{base}BAT0/status": f"{status}\n",
            f"{base}BAT0/voltage_now": "12000000\n",
            f"{base}BAT0/current_now": "1500000\n",
        },
    )


def test_a_battery_tells_what_is_drawn_from_it(tmp_path: Path) -> None:
    meter = find_meter(battery(tmp_path))
    assert isinstance(meter, BatteryMeter) and meter.source == "battery BAT0"
    start = time.perf_counter()
    with measuring(meter) as reading:
        time.sleep(0.15)
    assert reading.joules == pytest.approx(18 * (time.perf_counter() - start), rel=0.3)
    (tmp_path / "sys/class/power_supply/BAT0/power_now").write_text("20000000\n")
    assert meter.rails[0].watts() == 20


def test_why_there_is_no_figure(tmp_path: Path) -> None:
    assert find_meter(battery(tmp_path, "Charging")) is None
    assert why_no_meter(tmp_path) == "on mains, where a battery tells nothing"
    assert why_no_meter(tmp_path / "bare") == "no RAPL, no INA3221 rails, no battery"
    (rapl(tmp_path) / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    assert why_no_meter(tmp_path) == "RAPL's counters are for root alone here"
