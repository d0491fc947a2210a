"""Decoders: interleaved rounds of single requests, then of clients at once, and their figures."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.client import WorkerClient
from benchmark.fleet import Fleet, turns
from benchmark.records import EngineResult, EngineSpec
from benchmark.settings import Settings
from benchmark.statistics import latencies, percentile, spread

Rows = dict[str, dict[str, list[float]]]
# At so many clients one request each is enough of a sample.
_LEAST_SERVED = 4


def prompt(settings: Settings, vocab_size: int, seed: int) -> list[int]:
    """Random tokens: what is in a prompt changes no engine's work."""
    chosen = random.Random(seed)
    return [chosen.randrange(vocab_size) for _ in range(settings.prompt_tokens)]


def sweep_threads(fleet: Fleet, settings: Settings, vocab_size: int) -> None:
    """Each engine's best thread count for the stated mix."""
    tokens = prompt(settings, vocab_size, settings.seed)

    def timed(worker: WorkerClient) -> float:
        answer = worker.ask("request", tokens=tokens, count=settings.decode_tokens)
        return float(answer["ttft_sec"] + sum(answer["step_secs"]))

    fleet.warm_up_with(timed)
    fleet.sweep(timed, settings.threads)


def run_requests(fleet: Fleet, settings: Settings, vocab_size: int) -> Rows:
    """`rounds` rounds in which each engine makes `requests` requests, one after another."""
    rows: Rows = defaultdict(lambda: defaultdict(list))
    for round_ in range(settings.rounds):
        fleet.measure_bandwidth(round_)
        for spec in turns(fleet.specs, round_):
            with fleet.turn(spec) as (worker, energy):
                made = [
                    worker.ask(
                        "request",
                        tokens=prompt(settings, vocab_size, settings.seed + 1 + turn),
                        count=settings.decode_tokens,
                    )
                    for turn in range(settings.requests)
                ]
            for turn, answer in enumerate(made):
                _note(fleet, spec, settings, rows, answer, {"round": round_, "turn": turn})
            if energy.joules is not None:
                tokens = settings.requests * settings.decode_tokens
                rows[spec.name]["energy_j_per_token"].append(energy.joules / tokens)
                fleet.record(
                    spec, "request", "energy_j_per_token", energy.joules / tokens, round=round_
                )
        fleet.say(f"round {round_ + 1} of {settings.rounds} done")
    return rows


def run_clients(fleet: Fleet, settings: Settings, vocab_size: int) -> dict[str, dict[int, Any]]:
    """Clients at once: requests per second and latencies, by engine and number of clients."""
    rates: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    times: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for round_ in range(settings.serve_rounds):
        for clients in settings.clients:
            count = max(clients, _LEAST_SERVED if settings.rounds > 2 else clients)
            count = -(-count // clients) * clients
            prompts = [prompt(settings, vocab_size, settings.seed + n) for n in range(count)]
            for spec in turns(fleet.specs, round_):
                with fleet.turn(spec) as (worker, _):
                    answer = worker.ask(
                        "serve", prompts=prompts, count=settings.decode_tokens, clients=clients
                    )
                rate = count / answer["wall_sec"]
                rates[spec.name][clients].append(rate)
                at = {"round": round_, "clients": clients}
                fleet.record(spec, "serve", "requests_per_sec", rate, **at)
                for turn, request in enumerate(answer["requests"]):
                    times[spec.name][clients].append(request["total_sec"])
                    fleet.record(
                        spec, "serve", "request_sec", request["total_sec"], turn=turn, **at
                    )
            fleet.say(f"{clients} clients done")
    return {
        name: {
            clients: {
                "requests_per_sec": spread(values).as_json(),
                **latencies(times[name][clients]),
            }
            for clients, values in by_clients.items()
        }
        for name, by_clients in rates.items()
    }


def engine_results(
    fleet: Fleet,
    rows: Rows,
    served: Mapping[str, Mapping[int, Any]],
    single_peaks: Mapping[str, int],
    kv_elements_per_token: int | None,
    settings: Settings,
) -> list[EngineResult]:
    """Every engine's figures from the rows of all rounds."""
    results = []
    for spec in fleet.specs:
        mine, facts = rows[spec.name], fleet.facts_of(spec)
        figures: dict[str, Any] = {
            name: spread(mine[name]).as_json()
            for name in ("ttft_sec", "prefill_tokens_per_sec", "decode_tokens_per_sec")
        }
        figures["request_latency"] = latencies(mine["request_sec"])
        figures["token_latency"] = latencies(mine["step_sec"])
        if mine["energy_j_per_token"]:
            figures["energy_j_per_token"] = spread(mine["energy_j_per_token"]).as_json()
        figures["clients"] = {str(n): value for n, value in served.get(spec.name, {}).items()}
        figures["peak_rss_bytes"] = single_peaks[spec.name]
        figures["peak_rss_serving_bytes"] = fleet.peaks[spec.name]
        read = bytes_per_token(facts, kv_elements_per_token, settings)
        figures["bytes_per_token"] = read
        if read:
            figures["bandwidth_share"] = bandwidth_share(fleet, spec, read)
        cores = fleet.cores[: fleet.threads[spec.name]]
        threads = fleet.threads[spec.name]
        results.append(
            EngineResult(spec.name, spec.engine, spec.file_bytes, threads, cores, facts, figures)
        )
    return results


def bandwidth_share(fleet: Fleet, spec: EngineSpec, read_bytes: int) -> float:
    """Bytes that decoding read per second over the bandwidth measured in the same round with as
    many threads: the median over rounds."""
    ceilings = fleet.bandwidths[fleet.threads[spec.name]]
    speeds: dict[int, list[float]] = defaultdict(list)
    for row in fleet.measurements:
        if row.engine == spec.name and row.metric == "decode_tokens_per_sec":
            speeds[row.round].append(row.value)
    shares = [percentile(s, 50) * read_bytes / ceilings[r] for r, s in speeds.items()]
    return percentile(shares, 50)


def bytes_per_token(
    facts: Mapping[str, Any], kv_elements_per_token: int | None, settings: Settings
) -> int | None:
    """What a decode step in the middle of the answer reads: the weights, and the KV cache so far
    (left out where the model's shape is not known)."""
    weights = facts.get("weight_bytes_per_token")
    if not weights:
        return None
    past = settings.prompt_tokens + settings.decode_tokens // 2
    width = facts.get("kv_cache_bytes_per_element", 4)
    return int(weights + (kv_elements_per_token or 0) * past * width)


def _note(
    fleet: Fleet,
    spec: EngineSpec,
    settings: Settings,
    rows: Rows,
    answer: Mapping[str, Any],
    at: Mapping[str, int],
) -> None:
    """A request's times as figures."""
    steps: Sequence[float] = answer["step_secs"]
    figures = {
        "ttft_sec": answer["ttft_sec"],
        "prefill_tokens_per_sec": settings.prompt_tokens / answer["ttft_sec"],
        "request_sec": answer["ttft_sec"] + sum(steps),
        "decode_tokens_per_sec": len(steps) / sum(steps),
    }
    for metric, value in figures.items():
        rows[spec.name][metric].append(value)
        fleet.record(spec, "request", metric, value, **at)
    rows[spec.name]["step_sec"] += steps
