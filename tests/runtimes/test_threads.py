"""The number of threads follows what other work leaves free."""

from __future__ import annotations

import os

import psutil
import pytest

from runtimes import threads


@pytest.mark.parametrize(
    ("busy", "quota", "expected"),
    [
        ([0.0, 0.0, 3.0, 0.0], None, 4),
        ([100.0, 0.0, 90.0, 10.0], None, 2),
        ([100.0, 100.0, 100.0, 100.0], None, 1),
        ([0.0, 0.0, 0.0, 0.0], 2.5, 2),
        ([0.0, 0.0, 0.0, 0.0], 0.5, 1),
    ],
)
def test_busy_cores_and_quotas_are_left_out(
    monkeypatch: pytest.MonkeyPatch, busy: list[float], quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: busy)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: len(busy))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(len(busy))))
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert threads.idle_cores() == expected


def test_the_machine_at_hand_has_a_core_to_use() -> None:
    assert 1 <= threads.idle_cores() <= (psutil.cpu_count() or 1)
