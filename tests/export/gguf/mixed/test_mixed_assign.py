"""The choice of options against trying all of them."""

from __future__ import annotations

import itertools

import numpy
import pytest

from toolchain.export.gguf.mixed import assign as module
from toolchain.export.gguf.mixed.assign import Option, assign

_KINDS = ("a", "b", "c", "d")


def random_case(seed: int, unit: int = 32, count: int = 6) -> dict[str, list[Option]]:
    draw = numpy.random.default_rng(seed)
    found = {}
    for number in range(count):
        sizes = unit * numpy.sort(draw.integers(4, 60, len(_KINDS)))
        klds = numpy.sort(draw.uniform(0, 1, len(_KINDS)))[::-1]
        times = draw.uniform(1, 3, len(_KINDS))
        rows = zip(_KINDS, sizes, klds, times, strict=True)
        found[f"t{number}"] = [Option(k, int(s), float(e), float(t)) for k, s, e, t in rows]
    return found


def best(case: dict[str, list[Option]], limit: int, time: float = numpy.inf) -> float:
    sums = [
        sum(o.kld for o in picked)
        for picked in itertools.product(*case.values())
        if sum(o.size_bytes for o in picked) <= limit and sum(o.time for o in picked) <= time
    ]
    return min(sums, default=numpy.inf)


def limit_of(case: dict[str, list[Option]], share: float) -> int:
    low = sum(min(o.size_bytes for o in options) for options in case.values())
    high = sum(max(o.size_bytes for o in options) for options in case.values())
    return int(low + share * (high - low))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_the_choice_is_the_best_there_is(seed: int, share: float) -> None:
    case = random_case(seed)
    limit = limit_of(case, share)
    found = assign(case, limit)
    assert found is not None and found.exact and found.gap == 0
    assert found.kld == pytest.approx(best(case, limit))
    assert found.size_bytes <= limit and found.bound_kld <= found.kld + 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_rounded_sizes_stay_within_the_limit_and_tell_the_gap(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_STATES", 40)
    case = random_case(seed, unit=37)
    limit = limit_of(case, 0.5)
    found = assign(case, limit)
    assert found is not None and not found.exact and found.size_bytes <= limit
    least = best(case, limit)
    assert found.bound_kld <= least <= found.kld + 1e-12
    assert found.kld <= least * (1 + found.gap) + 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_a_limit_on_time_is_kept_and_its_gap_told(seed: int) -> None:
    case = random_case(seed)
    limit = limit_of(case, 0.6)
    free = assign(case, limit)
    assert free is not None
    time = 0.93 * free.time
    least = best(case, limit, time)
    found = assign(case, limit, time)
    if found is None:  # no multiplier keeps both limits
        assert least > free.kld
        return
    assert found.time <= time and found.size_bytes <= limit
    assert found.bound_kld <= least + 1e-12 and least <= found.kld + 1e-12
    assert found.kld <= least * (1 + found.gap) + 1e-12


def test_what_is_too_small_or_too_fast_has_no_choice() -> None:
    case = random_case(0)
    assert assign(case, limit_of(case, 0.0) - 1) is None
    assert assign(case, limit_of(case, 1.0), 0.5 * len(case)) is None
