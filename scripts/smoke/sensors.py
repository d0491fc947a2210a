"""Power and temperature while the model decodes, where this machine tells them."""

from __future__ import annotations

import time
from pathlib import Path

from runtimes.energy import Meter, find_meter, measuring, why_no_meter
from runtimes.tegrastats import TegrastatsMeter, find_tegrastats
from runtimes.thermal import hottest

from .checks import Check, at_most
from .engine import Engine

ENERGY_SEC, ENERGY_TOKENS = 2.0, 32
POWER_CHECKS = ("power_watts", "joules_per_token")


def check_power(engine: Engine, root: Path, thresholds: dict[str, float]) -> list[Check]:
    """Mean power and joules per token over two seconds of decoding, prompts included."""
    meter = find_power(root)
    if meter is None:
        reason = f"not readable here: {why_no_meter(root)}"
        return [Check(name, note=reason) for name in POWER_CHECKS]
    tokens, begin = 0, time.perf_counter()
    with measuring(meter) as reading:
        while time.perf_counter() - begin < ENERGY_SEC:
            tokens += engine.decode(ENERGY_TOKENS).tokens
        sec = time.perf_counter() - begin
    if reading.joules is None:
        return [Check(name, note=f"{meter.source} stopped to answer") for name in POWER_CHECKS]
    note = f"{meter.source}, whole machine, while decoding"
    values = {"power_watts": reading.joules / sec, "joules_per_token": reading.joules / tokens}
    units = {"power_watts": "W", "joules_per_token": "J"}
    return [
        at_most(name, value, thresholds.get(f"max_{name}"), units[name], note)
        for name, value in values.items()
    ]


def find_power(root: Path) -> Meter | None:
    """What the kernel's files give, else what `tegrastats` prints."""
    meter = find_meter(root)
    if meter is not None:
        return meter
    program = find_tegrastats()
    return TegrastatsMeter(program) if program else None


def check_temperature(root: Path, thresholds: dict[str, float]) -> Check:
    """The hottest zone after the work."""
    name, found = "temperature_celsius", hottest(root)
    if found is None:
        return Check(name, note="not readable here: the kernel has no thermal zone")
    return at_most(
        name, found[1], thresholds.get(f"max_{name}"), "°C", f"{found[0]}, after the work"
    )
