"""Energy that the machine used, where it can be read: RAPL, a Jetson's INA3221 rails, a battery.

    meter = find_meter()
    with measuring(meter) as reading: ...
    reading.joules

RAPL counts what packages (and memory, where the kernel has that domain) took; an INA3221 gives
volts and amperes of a rail, a battery what is drawn from it; these a thread samples and sums. All
are of the whole machine, idle share included. Sources: Linux `powercap/powercap.rst`,
`hwmon/ina3221.rst`, `power/power_supply_class.rst`; NVIDIA's Jetson Linux guide.

The smoke test carries this module to devices: standard library and syntax of Python 3.8 alone.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

_SAMPLE_SEC = 0.05
# The board's whole input, where NVIDIA's device trees have such a rail (Orin NX and Nano, Xavier
# NX, TX2, Nano). The AGX modules have none: there the sum of all rails is the module's power.
INPUT_RAILS = ("VDD_IN", "POM_5V_IN")


class Meter(Protocol):
    """A source of energy figures. `source` says what is counted."""

    @property
    def source(self) -> str: ...

    def start(self) -> None: ...

    def stop(self) -> float:
        """Joules since `start`."""
        ...


@dataclass
class Reading:
    """`joules` is None until the block is left, and where nothing can be read."""

    joules: float | None = None


@contextmanager
def measuring(meter: Meter | None) -> Iterator[Reading]:
    """Measure the energy of a block; without a meter the reading stays None."""
    reading = Reading()
    if meter is None:
        yield reading
        return
    meter.start()
    try:
        yield reading
    finally:
        try:
            reading.joules = meter.stop()
        except (OSError, ValueError):
            reading.joules = None  # a counter that went away, for instance with a driver's reload


def find_meter(root: Path = Path("/")) -> Meter | None:
    """What can be read here: RAPL, else a board's rails, else a battery in use; None where nothing.

    Since Linux 5.10 RAPL's counters are for root alone unless permissions were changed.
    """
    zones = [zone for zone in _rapl_zones(root) if _readable(zone.counter)]
    if zones:
        return RaplMeter(zones)
    rails = _rails(root) or _old_rails(root)
    if rails:
        return RailMeter(rails)
    batteries = [battery for battery in _batteries(root) if battery.is_read()]
    return BatteryMeter(batteries) if batteries else None


def why_no_meter(root: Path = Path("/")) -> str:
    """Why `find_meter` gave none, for a reader who expected a figure."""
    if any(not _readable(zone.counter) for zone in _rapl_zones(root)):
        return "RAPL's counters are for root alone here"
    if any(_text(battery.folder / "type") == "Battery" for battery in _batteries(root)):
        return "on mains, where a battery tells nothing"
    return "no RAPL, no INA3221 rails, no battery"


@dataclass(frozen=True)
class RaplZone:
    """A domain's counter in microjoules; it starts again at 0 beyond `range_uj`."""

    name: str
    counter: Path
    range_uj: int


@dataclass
class RaplMeter:
    """Sum of RAPL domains. A counter that wrapped once between `start` and `stop` is set right
    (packages wrap after minutes at full power; a block should be shorter)."""

    zones: list[RaplZone]
    _before: dict[str, int] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return "RAPL " + " + ".join(zone.name for zone in self.zones)

    def start(self) -> None:
        self._before = {str(zone.counter): _number(zone.counter) for zone in self.zones}

    def stop(self) -> float:
        used = 0
        for zone in self.zones:
            step = _number(zone.counter) - self._before[str(zone.counter)]
            used += step if step >= 0 else step + zone.range_uj + 1
        return used / 1e6


class PowerSource(Protocol):
    """Something whose power can be read at any moment."""

    @property
    def name(self) -> str: ...

    def watts(self) -> float: ...


@dataclass(frozen=True)
class Rail:
    """A channel of an INA3221: millivolts and milliamperes."""

    name: str
    millivolts: Path
    milliamperes: Path

    def watts(self) -> float:
        return _number(self.millivolts) * _number(self.milliamperes) / 1e6


@dataclass(frozen=True)
class Battery:
    """A battery: microwatts, or microvolts and microamperes, while it is being drawn from."""

    name: str
    folder: Path

    def watts(self) -> float:
        """Raises `ValueError` while it is not discharging."""
        if _text(self.folder / "status") != "Discharging":
            raise ValueError(f"{self.name} is not in use")
        if _readable(self.folder / "power_now"):
            return abs(_number(self.folder / "power_now")) / 1e6
        volts = _number(self.folder / "voltage_now") / 1e6
        return volts * abs(_number(self.folder / "current_now")) / 1e6

    def is_read(self) -> bool:
        try:
            return self.watts() > 0
        except (OSError, ValueError):
            return False


class SampledMeter:
    """Power, sampled every 50 ms in a thread and summed by the trapezoidal rule."""

    kind = ""

    def __init__(self, rails: Sequence[PowerSource], sample_sec: float = _SAMPLE_SEC) -> None:
        self.rails = rails
        self._sample_sec = sample_sec
        self._samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def source(self) -> str:
        return f"{self.kind} " + " + ".join(rail.name for rail in self.rails)

    def start(self) -> None:
        self._samples, self._stop = [self._sample()], threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        assert self._thread is not None
        self._stop.set()
        self._thread.join()
        self._samples.append(self._sample())
        pairs = zip(self._samples, self._samples[1:])  # noqa: B905 (3.8)
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs)

    def _sample(self) -> tuple[float, float]:
        return time.perf_counter(), sum(rail.watts() for rail in self.rails)

    def _watch(self) -> None:
        while not self._stop.wait(self._sample_sec):
            try:
                self._samples.append(self._sample())
            except (OSError, ValueError):
                continue  # I2C reads fail now and then; the neighbours bridge the gap


class RailMeter(SampledMeter):
    """A board's rails."""

    kind = "INA3221"


class BatteryMeter(SampledMeter):
    """Batteries; their drivers renew the figure every second or so, so short blocks say little."""

    kind = "battery"


def _rapl_zones(root: Path) -> list[RaplZone]:
    """Packages, and the memory domains inside them (cores and graphics are part of a package;
    `psys` holds everything again)."""
    zones = []
    base = root / "sys/class/powercap"
    for folder in sorted(base.glob("intel-rapl:*")):
        name = _text(folder / "name")
        inner = folder.name.count(":") > 1
        if (inner and name == "dram") or (not inner and name.startswith("package")):
            label = f"{_text(base / folder.name.rpartition(':')[0] / 'name')}/dram"
            limit = _text(folder / "max_energy_range_uj")
            zones.append(
                RaplZone(
                    label if inner else name,
                    folder / "energy_uj",
                    int(limit) if limit.isdigit() else 0,
                )
            )
    return zones


def _rails(root: Path) -> list[Rail]:
    """The board's input rail where it is named, else every labelled rail."""
    rails = []
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if _text(folder / "name") != "ina3221":
            continue
        for label in sorted(folder.glob("in*_label")):
            number = re.sub(r"\D", "", label.name)
            name = _text(label)
            rail = Rail(name, folder / f"in{number}_input", folder / f"curr{number}_input")
            sums = name.lower().startswith("sum of")
            if not sums and _readable(rail.millivolts) and _readable(rail.milliamperes):
                rails.append(rail)
    return [rail for rail in rails if rail.name in INPUT_RAILS] or rails


def _old_rails(root: Path) -> list[Rail]:
    """The same of JetPack 4 (L4T 32), whose driver is of the IIO kind."""
    rails = []
    for folder in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*")):
        for label in sorted(folder.glob("rail_name_*")):
            number = label.name[len("rail_name_") :]
            volts, amperes = (
                folder / f"in_{kind}{number}_input" for kind in ("voltage", "current")
            )
            if _readable(volts) and _readable(amperes):
                rails.append(Rail(_text(label), volts, amperes))
    return [rail for rail in rails if rail.name in INPUT_RAILS] or rails


def _batteries(root: Path) -> list[Battery]:
    """The machine's own, not those of a mouse or a headset."""
    folders = sorted((root / "sys/class/power_supply").glob("*"))
    own = [f for f in folders if _text(f / "type") == "Battery" and _text(f / "scope") != "Device"]
    return [Battery(folder.name, folder) for folder in own]


def _readable(path: Path) -> bool:
    try:
        _number(path)
    except (OSError, ValueError):
        return False
    return True


def _number(path: Path) -> int:
    return int(path.read_text(encoding="utf-8").strip())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
