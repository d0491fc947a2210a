"""Temperatures of the machine, by the kernel's thermal zones.

    hottest()   # ("cpu-thermal", 48.5), None where the kernel has no zone

Source: Linux `driver-api/thermal/sysfs-api.rst`. The smoke test carries this module to devices:
standard library and syntax of Python 3.8 alone.
"""

from __future__ import annotations

from pathlib import Path

# What drivers give for a sensor that is off (a Jetson's GPU zone while the GPU sleeps) or absent.
_PLAUSIBLE_CELSIUS = (-30.0, 130.0)


def temperatures(root: Path = Path("/")) -> dict[str, float]:
    """Degrees Celsius by zone; zones that cannot be read or tell nothing plausible are left out."""
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        try:
            celsius = int((zone / "temp").read_text(encoding="utf-8").strip()) / 1000
            name = (zone / "type").read_text(encoding="utf-8", errors="replace").strip()
        except (OSError, ValueError):
            continue
        if _PLAUSIBLE_CELSIUS[0] < celsius < _PLAUSIBLE_CELSIUS[1] and celsius != 0.0:
            found[name] = max(celsius, found.get(name, celsius))
    return found


def hottest(root: Path = Path("/")) -> tuple[str, float] | None:
    """Name and degrees of the hottest zone."""
    zones = temperatures(root)
    return max(zones.items(), key=lambda item: item[1]) if zones else None
