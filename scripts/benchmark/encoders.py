"""Encoders: interleaved rounds over batch sizes and sequence lengths, and their figures."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

from benchmark.client import WorkerClient
from benchmark.fleet import Fleet, turns
from benchmark.records import EngineResult
from benchmark.settings import Settings
from benchmark.statistics import latencies, spread

Cell = tuple[int, int]  # batch, sequence
Rows = dict[str, dict[Cell, list[float]]]


def tokens_of(cell: Cell, vocab_size: int, seed: int) -> list[list[int]]:
    """A batch of random tokens, none of it padding."""
    batch, sequence = cell
    chosen = random.Random(seed)
    return [[chosen.randrange(vocab_size) for _ in range(sequence)] for _ in range(batch)]


def cells_of(settings: Settings, max_tokens: int | None) -> list[Cell]:
    """All shapes that the model takes."""
    return [
        (batch, sequence)
        for sequence in settings.sequences
        for batch in settings.batches
        if max_tokens is None or sequence <= max_tokens
    ]


def sweep_threads(fleet: Fleet, settings: Settings, cells: list[Cell], vocab_size: int) -> None:
    """Each engine's best thread count, on the shape in the middle."""
    tokens = tokens_of(cells[len(cells) // 2], vocab_size, settings.seed)

    def timed(worker: WorkerClient) -> float:
        answer = worker.ask("encode", tokens=tokens, min_sec=0.1, max_runs=10, warm_up=1)
        return float(min(answer["secs"]))

    fleet.warm_up_with(timed)
    fleet.sweep(timed, settings.threads)


def run_cells(
    fleet: Fleet, settings: Settings, cells: list[Cell], vocab_size: int
) -> tuple[Rows, dict[str, dict[Cell, list[float]]]]:
    """Seconds per batch, and joules per sequence where these can be read."""
    rows: Rows = defaultdict(lambda: defaultdict(list))
    energy_rows: dict[str, dict[Cell, list[float]]] = defaultdict(lambda: defaultdict(list))
    for round_ in range(settings.rounds):
        fleet.measure_bandwidth(round_)
        for cell in cells:
            tokens = tokens_of(cell, vocab_size, settings.seed + round_)
            at = {"round": round_, "batch": cell[0], "sequence": cell[1]}
            for spec in turns(fleet.specs, round_):
                with fleet.turn(spec) as (worker, energy):
                    answer = worker.ask(
                        "encode",
                        tokens=tokens,
                        min_sec=settings.min_cell_sec,
                        max_runs=settings.max_cell_runs,
                        warm_up=1 if round_ == 0 else 0,
                    )
                rows[spec.name][cell] += answer["secs"]
                for turn, sec in enumerate(answer["secs"]):
                    fleet.record(spec, "encode", "batch_sec", sec, turn=turn, **at)
                if energy.joules is not None and round_ > 0:  # warm-up is in the first round's
                    joules = energy.joules / (len(answer["secs"]) * cell[0])
                    energy_rows[spec.name][cell].append(joules)
                    fleet.record(spec, "encode", "energy_j_per_request", joules, **at)
        fleet.say(f"round {round_ + 1} of {settings.rounds} done")
    return rows, energy_rows


def engine_results(
    fleet: Fleet, rows: Rows, energy: dict[str, dict[Cell, list[float]]]
) -> list[EngineResult]:
    """Every engine's figures: by shape latency percentiles and sequences per second."""
    results = []
    for spec in fleet.specs:
        cells: dict[str, Any] = {}
        for (batch, sequence), secs in rows[spec.name].items():
            figures: dict[str, Any] = {
                "batch": batch,
                "sequence": sequence,
                **latencies(secs),
                "sequences_per_sec": spread([batch / sec for sec in secs]).as_json(),
            }
            if joules := energy[spec.name][batch, sequence]:
                figures["energy_j_per_request"] = spread(joules).as_json()
            cells[cell_name((batch, sequence))] = figures
        threads = fleet.threads[spec.name]
        results.append(
            EngineResult(
                spec.name,
                spec.engine,
                spec.file_bytes,
                threads,
                fleet.cores[:threads],
                fleet.facts_of(spec),
                {"cells": cells, "peak_rss_bytes": fleet.peaks[spec.name]},
            )
        )
    return results


def cell_name(cell: Cell) -> str:
    """`1x128`: batch 1, sequence 128."""
    return f"{cell[0]}x{cell[1]}"
