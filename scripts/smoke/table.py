"""The result for a reader at a terminal."""

from __future__ import annotations

from typing import Any

from .result import Result

BUSY_LOAD_PER_CORE = 0.5


def table(result: Result) -> str:
    """The result for a reader at a terminal."""
    rows = [("check", "value", "limit", "", "note")]
    rows += [
        (c.name, shown(c.value, c.unit), shown(c.limit, c.unit), c.status, c.note)
        for c in result.checks
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([row[i].ljust(widths[i]) for i in range(4)] + [row[4]]).rstrip() for row in rows
    ]
    lines.append("")
    if result.threads.get("best"):
        rates = result.threads["decode_tokens_per_sec"].items()
        tried = ", ".join(f"{count}: {rate:.4g}" for count, rate in rates)
        lines.append(
            "best thread count {best} (profile {profile}); decode tokens/s by count: ".format(
                **result.threads
            )
            + tried
        )
    if "speed_limit_scales" in result.machine:
        lines.append(
            "memory bandwidth {:.1f} GB/s; limits scaled: decode by {decode:.2f}, prefill by "
            "{prefill:.2f}".format(
                result.machine["copy_bandwidth_bytes_per_sec"] / 1e9,
                **result.machine["speed_limit_scales"],
            )
        )
    lines += [f"passed over: {one.reason}" for one in result.engines_passed_over if one.there]
    if result.engine:
        lines.append("engine: {name} {version}".format(**result.engine))
    load = result.machine["load_per_core_before"]
    if load > BUSY_LOAD_PER_CORE:
        lines.append(f"busy machine: load per core {load:.1f}; speeds read low")
    name = " for ".join(part for part in (result.model, result.target) if part)
    lines.append(
        "smoke test {verdict} in {test_sec:.1f} s on this machine ({architecture}, {cpu}): ".format(
            verdict=result.verdict, **result.machine
        )
        + name
    )
    return "\n".join(lines)


def shown(value: Any, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "bytes":
        return f"{value / 1e6:.0f} MB"
    if unit == "share":
        return f"{value:.1%}"
    number = f"{value:.0f}" if isinstance(value, int) or value >= 1000 else f"{value:.3g}"
    return f"{number} {unit}"
