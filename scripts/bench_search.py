"""How near a search comes to the best of an exhaustive grid, and in how many trials.

    python scripts/bench_search.py --objective size --max-kld 0.0009 --seeds 8

Every point of a small space (types × embedding × ffn_down, on the demo model) is made and measured
once: the grid. Points that give the same file are one. Then, for each seed, a search of a third as
many trials runs by itself; its best is held against the grid's best. For `size` and the planner's
decode speed no figure has noise. With `--speed here` both measure decode on this machine; at the
end the grid's best and what the searches found are timed again, in turns, and that counts.

Exit code 1 when a seed's best is more than --tolerance (5 %) behind.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from toolchain.search.session import SearchRequest, Session

TYPES = ("Q3_K_M", "IQ4_XS", "Q4_0", "Q4_K_M", "Q5_K_M")
GROUPS = {"embedding": ("mix", "Q4_K", "Q8_0"), "ffn_down": ("mix", "Q4_K", "Q6_K", "Q8_0")}
TOKENS = 2048
_GRID = "grid.json"
_FINAL_ROUNDS = 25


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--target", default="laptop")
    parser.add_argument("--objective", choices=("size", "decode"), default="size")
    parser.add_argument("--speed", choices=("planned", "here"), default="planned")
    parser.add_argument("--max-kld", type=float, default=0.0009, help="the budget")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--share", type=float, default=1 / 3, help="trials, as a share of the grid")
    parser.add_argument("--tolerance", type=float, default=0.05)
    parser.add_argument("--out", type=Path, default=Path("build/bench-search"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser.parse_args(arguments)


def request_of(
    options: argparse.Namespace, study: str, seed: int, trials: int, objective: str | None = None
) -> SearchRequest:
    """A search over the small space."""
    from toolchain.job import BuildRequest
    from toolchain.search.session import SearchRequest, Wanted
    from toolchain.search.settings import Budget, Fidelity, Settings

    return SearchRequest(
        build=BuildRequest(options.target, options.model, out=options.out),
        settings=Settings(
            objective or options.objective,
            Budget(options.max_kld),
            options.speed,
            Fidelity(TOKENS // 8, TOKENS),
            seed,
        ),
        wanted=Wanted(TYPES, GROUPS, prune=(0.0,), kv_cache=("f16",)),
        trials=trials,
        study=study,
    )


def grid(session: Session) -> dict[str, dict[str, Any]]:
    """Every point's figures by key, made and measured as a trial does it; kept in a file."""
    from common.files import write_json

    path = session.folder / _GRID
    found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    bench, space = session.bench, session.space
    keys = []
    for indices in space.points():
        point = space.at(indices)
        planned = bench.plan(point)
        keys.append(planned.key)
        if planned.key in found:
            continue
        file = bench.make(point)
        score = bench.score(file, planned.kv_cache_type, quick=False)
        found[planned.key] = {
            "text": point.text(),
            "point": point.as_json(),
            "kld": score.kld,
            "size_bytes": file.only(".gguf").stat().st_size,
            "decode_tokens_per_sec": planned.decode_tokens_per_sec,
            "kv_cache_type": planned.kv_cache_type,
            "file": str(file.only(".gguf")),
        }
        write_json(path, found)
        print(f"grid {len(found)}: {point.text()}: KLD {score.kld:.4g}", flush=True)
    return {key: found[key] for key in dict.fromkeys(keys)}


def best_of(points: Mapping[str, Mapping[str, Any]], options: argparse.Namespace) -> str:
    """The key of the best point within budget by the figures that have no noise."""
    good = {key: row for key, row in points.items() if row["kld"] <= options.max_kld}
    if not good:
        raise SystemExit(f"no point of the grid has a KLD of at most {options.max_kld:g}")
    if options.objective == "size":
        return min(good, key=lambda key: good[key]["size_bytes"])
    return max(good, key=lambda key: good[key]["decode_tokens_per_sec"])


def time_grid(points: Mapping[str, dict[str, Any]], session: Session, max_kld: float) -> None:
    """Decode of every point within budget here, against one fixed file in turns."""
    from toolchain.search.speed import Runs, time_pair

    fixed = session.bench.make(session.bench.original).only(".gguf")
    for row in points.values():
        if row["kld"] <= max_kld:
            timed = time_pair(Runs(Path(row["file"]), "f16", 1), Runs(fixed, "f16", 1))
            row["decode_tokens_per_sec"] = timed.ratio  # against the fixed file's
            row["spread"] = timed.spread


def together(files: Sequence[Path]) -> dict[Path, float]:
    """Median decode speed of each file, all in turns."""
    from runtimes.timed import TimedOptions
    from runtimes.timed_llama import LlamaDecoder

    decoders = {path: LlamaDecoder(path, TimedOptions(1, 128)) for path in dict.fromkeys(files)}
    times: dict[Path, list[float]] = {path: [] for path in decoders}
    for index in range(_FINAL_ROUNDS + 1):
        for path, decoder in decoders.items():
            decoder.prefill(range(1, 65))
            steps = decoder.decode(32)
            if index:
                times[path].append(statistics.median(steps))
    for decoder in decoders.values():
        decoder.close()
    return {path: 1 / statistics.median(own) for path, own in times.items()}


def searched(
    options: argparse.Namespace, seed: int, trials: int, planned: Session
) -> dict[str, Any]:
    """One search from nothing; its best with what it cost. Plans, which have no noise, are those of
    the grid."""
    from toolchain.search.search import run_session
    from toolchain.search.session import open_session

    start = time.monotonic()
    study = f"{options.objective}-{options.speed}-{options.max_kld:g}-{seed}"
    session = open_session(request_of(options, study, seed, trials), lambda line: None)
    session.bench.share_plans(planned.bench)
    found = run_session(session, lambda line: None)
    best = next(r for r in found.data["trials"] if r["trial"] == found.data["best"]["trial"])
    return {
        "seed": seed,
        "key": best["key"],
        "text": best["text"],
        "figures": best["figures"],
        "file": found.data["best"]["file"],
        "trials": len(found.data["trials"]),
        "given_up_early": sum(bool(r["reason"]) for r in found.data["trials"]),
        "sec": time.monotonic() - start,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Grid, searches, verdict."""
    from toolchain.search.session import open_session

    options = parse_arguments(arguments)
    # The grid is objective-free, so that several benchmarks share it.
    session = open_session(request_of(options, "grid", 0, 1, "size"), lambda line: print(line))
    points = grid(session)
    measured = options.objective == "decode" and options.speed == "here"
    if measured:
        time_grid(points, session, options.max_kld)
    best = points[best_of(points, options)]
    trials = int(len(points) * options.share)
    within = sum(row["kld"] <= options.max_kld for row in points.values())
    print(f"grid: {len(points)} files, {within} within KLD {options.max_kld:g}; best: "
          f"{best['text']}; searches of {trials} trials")  # fmt: skip
    rows = [searched(options, seed, trials, session) for seed in range(options.seeds)]
    figure = "size_bytes" if options.objective == "size" else "decode_tokens_per_sec"
    if measured:
        speeds = together([Path(best["file"]), *(Path(row["file"]) for row in rows)])
        top = speeds[Path(best["file"])]
        values = [speeds[Path(row["file"])] for row in rows]
    else:
        top = best[figure]
        values = [row["figures"][figure] for row in rows]
    for row, value in zip(rows, values, strict=True):
        row["value"] = value
        row["behind"] = value / top - 1 if options.objective == "size" else 1 - value / top
        print(f"seed {row['seed']}: {row['text']}: {value:.6g} ({100 * row['behind']:+.2f} % "
              f"behind {top:.6g}), {row['trials']} trials, {row['sec']:.0f} s")  # fmt: skip
    worst = max(row["behind"] for row in rows)
    exact = sum(row["behind"] <= 1e-9 for row in rows)
    print(f"worst {100 * worst:+.2f} % behind; {exact} of {len(rows)} seeds at least as good as "
          "the grid's best")  # fmt: skip
    if options.json:
        text = json.dumps({"grid": points, "best": best, "searches": rows}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0 if worst <= options.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
