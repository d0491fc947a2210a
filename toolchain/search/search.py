"""Search for the best candidate within budget: the whole journey of `edgeforge search`.

    found = search(SearchRequest(BuildRequest("jetson", "demo"), settings), say)

Leaves `search.json`, recipes, a plot and a report in OUT/<model>/<target>-search/. Candidates are
ranked on one part of the calibration text; the evaluation text is read once, for the best, at the
end.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.files import write_json
from common.shell import shell_line
from toolchain.pipeline import Workspace, writing
from toolchain.search.front import axes, front, unmet, within
from toolchain.search.recipes import write_recipe
from toolchain.search.session import SearchRequest, Session, open_session
from toolchain.search.settings import HERE, PLANNED
from toolchain.search.space import Point, point_of
from toolchain.search.trial import FIXED, THREADS, fixed_runs
from toolchain.search.workers import run_workers

if TYPE_CHECKING:
    from toolchain.search.speed import Runs

RESULT, RECIPE, RECIPES = "search.json", "recipe.yaml", "recipes"
_FINALS, _SECONDS = "finals", "wall_sec"
_FINALISTS, _CLOSE = 4, 0.9  # timed again, when within this share of the fastest
_FINAL_ROUNDS = 15
_MOST_TIMED = 12
Say = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """What a search found. `data` is `search.json`; `recipe` rebuilds the best."""

    folder: Path
    data: Mapping[str, Any]
    recipe: Path


def search(request: SearchRequest, say: Say) -> Found:
    """Run trials until there are as many as asked for and conclude. Raises `UserError` when nothing
    is within budget (the files are written all the same), and for all that a user can mend."""
    return run_session(open_session(request, say), say)


def run_session(session: Session, say: Say) -> Found:
    """As `search`, for a session that is open."""
    request = session.request
    with contextlib.ExitStack() as stack:
        for root in session.roots:
            stack.enter_context(writing(Workspace(root)))
        start = time.monotonic()
        _begin(session, say)
        if len(session.study.finished()) < request.trials:
            run_workers(session, say)
        before = float(session.study.noted(_SECONDS) or 0.0)
        session.study.note(_SECONDS, before + time.monotonic() - start)
        return _conclude(session, say)


def _begin(session: Session, say: Say) -> None:
    """What every trial needs: the original's logits, the file that speeds are compared with, and
    points to begin with."""
    study, bench = session.study, session.bench
    stale = study.drop_stale()
    done = len(study.finished())
    if done:
        say(f"study {study.name}: {done} trials are finished" + (
            f", {stale} were interrupted and are given up" if stale else ""))  # fmt: skip
    file = bench.make(bench.original)
    bench.score(file, "f16", quick=True)
    if study.noted(THREADS) is None:
        from runtimes.threads import idle_cores

        study.note(THREADS, idle_cores())
    if session.settings.needs_speed and session.settings.speed == HERE and not study.noted(FIXED):
        from toolchain.search.speed import time_pair

        fixed = fixed_runs(bench, study)  # made before: whoever times keeps all others from making
        with bench.timing():
            study.note(FIXED, time_pair(fixed, fixed).fixed_tokens_per_sec)
    choices = session.space.choices
    first = Point(
        session.target.quantization[0],
        context_tokens=choices["context_tokens"][-1],
        kv_cache_type=choices["kv_cache_type"][-1],
        threads=choices["threads"][-1],
        prune_ratio=choices["prune_ratio"][0],
    )
    inside = session.space.indices(first)
    study.enqueue([] if inside is None else [inside])


def _conclude(session: Session, say: Say) -> Found:
    """Front, best, held-out figure, recipes, files."""
    from toolchain.report.search import write_search_report

    study, settings = session.study, session.settings
    records = _refined(session, study.records(), say)
    edge = front(records, axes(settings, session.space))
    good = within(records, settings)
    best = good[0] if good else None
    recipes = _write_recipes(session, edge, best)
    data = _data(session, records, edge, best, recipes)
    if best is not None:
        data["best"] = {**data["best"], **_final_figures(session, best, say)}
    data["here"] = _timed_here(session, edge, best)
    write_json(session.folder / RESULT, data)
    write_search_report(session.folder, data)
    if best is None:
        raise UserError(
            f"none of {len(records)} points keeps the budget",
            f"change the limit that is named, widen the choices, or allow more --trials; every "
            f"point that was tried is in {session.folder / RESULT}",
            details=unmet(records, settings),
        )
    return Found(session.folder, data, session.folder / RECIPE)


def _refined(session: Session, records: list[dict[str, Any]], say: Say) -> list[dict[str, Any]]:
    """Where a speed that was measured here decides, the fastest are timed again in one sitting, and
    that figure counts."""
    settings, study = session.settings, session.study
    if not (settings.objective == "decode" and settings.speed == HERE):
        return records
    good = within(records, settings)
    if not good:
        return records
    least = _CLOSE * good[0]["figures"]["decode_tokens_per_sec"]
    finalists = [r for r in good if r["figures"]["decode_tokens_per_sec"] >= least][:_FINALISTS]
    finals = dict(study.noted(_FINALS) or {})
    for record in finalists:
        if record["key"] not in finals:
            say(f"timing again: {record['text']}")
            finals[record["key"]] = _time(session, record, _FINAL_ROUNDS)
    study.note(_FINALS, finals)
    fixed = float(study.noted(FIXED))
    return [
        {
            **record,
            "timed": finals[record["key"]],
            "figures": {
                **record["figures"],
                "decode_tokens_per_sec": finals[record["key"]]["ratio"] * fixed,
            },
        }
        if record.get("key") in finals and record["figures"].get("decode_tokens_per_sec")
        else record
        for record in records
    ]


def _time(session: Session, record: Mapping[str, Any], rounds: int) -> dict[str, float]:
    from toolchain.search.speed import time_pair

    fixed = fixed_runs(session.bench, session.study)
    own = _runs(session, record, fixed.threads)
    with session.bench.timing():
        return dict(vars(time_pair(own, fixed, rounds)))


def _runs(session: Session, record: Mapping[str, Any], threads: int) -> Runs:
    from toolchain.search.speed import Runs

    point = point_of(record["point"])
    file = session.bench.make(point).only(".gguf")
    return Runs(file, record["planned"]["kv_cache_type"], point.threads or threads)


def _timed_here(
    session: Session, edge: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Where the planner's speeds rank, those of the front as they are on this machine."""
    from runtimes.host import read_host

    settings = session.settings
    if settings.objective != "decode" or settings.speed != PLANNED:
        return None
    chosen = [record for record in edge if record.get("key")][:_MOST_TIMED]
    if best is not None and all(record["trial"] != best["trial"] for record in chosen):
        chosen.append(best)
    if not chosen:
        return None
    known = dict(session.study.noted(_FINALS) or {})
    for record in chosen:
        if record["key"] not in known:
            known[record["key"]] = _time(session, record, 7)
    session.study.note(_FINALS, known)
    fixed = statistics.median(known[record["key"]]["fixed_tokens_per_sec"] for record in chosen)
    speeds = {str(record["trial"]): fixed * known[record["key"]]["ratio"] for record in chosen}
    return {
        "cpu": read_host().cpu_model,
        "threads": session.study.noted(THREADS),
        "decode_tokens_per_sec": speeds,
    }


def _final_figures(session: Session, best: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """The best on the evaluation text, which no trial saw."""
    say("held-out text …")
    point = point_of(best["point"])
    file = session.bench.make(point)
    score = session.bench.held_out(file, best["planned"]["kv_cache_type"])
    name = file.only(".gguf").name
    return {"held_out": vars(score), "sha256": file.files[name], "file": str(file.path / name)}


def _write_recipes(
    session: Session, edge: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None
) -> dict[int, str]:
    """A recipe for every point of the front, and one for the best; trial → path in the folder."""
    bench, folder = session.bench, session.folder
    paths = {}
    for record in edge:
        name = f"{RECIPES}/trial-{record['trial']:03d}.yaml"
        _recipe(bench, folder / name, record)
        paths[int(record["trial"])] = name
    if best is None:
        (folder / RECIPE).unlink(missing_ok=True)
    else:
        _recipe(bench, folder / RECIPE, best)
    return paths


def _recipe(bench: Any, path: Path, record: Mapping[str, Any]) -> None:
    figures = record["figures"]
    notes = (
        f"trial {record['trial']}: {record['text']}",
        f"{figures['size_bytes']} bytes, KLD {figures['kld']:.5g} on the search's text",
        f"the file that was measured has SHA-256 {record['sha256']}",
    )
    write_recipe(path, point_of(record["point"]), bench.base, bench.snap_type, notes)


def _data(
    session: Session,
    records: Sequence[Mapping[str, Any]],
    edge: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any] | None,
    recipes: Mapping[int, str],
) -> dict[str, Any]:
    """`search.json`."""
    settings, study, texts = session.settings, session.study, session.texts
    return {
        "schema": 1,
        "model": session.job.name,
        "checkpoint": session.job.base.digest,
        "target": {k: getattr(session.target, k) for k in ("name", "title", "title_zh")},
        "objective": settings.objective,
        "figure": settings.figure,
        "maximize": settings.maximizes,
        "budget": {limit.name: limit.value for limit in settings.budget.limits()},
        "speed_from": settings.speed,
        "speed": session.bound["speed"],
        "study": study.name,
        "bound_to": dict(session.bound),
        "texts": {
            "made_with": {"name": texts.fit.name, "digest": texts.fit.digest},
            "ranked_on": {"name": texts.score.name, "digest": texts.score.digest},
            "held_out": {"name": texts.evaluation.name, "digest": texts.evaluation.digest},
        },
        "space": session.space.as_json(),
        "space_size": session.space.size,
        "wall_sec": study.noted(_SECONDS),
        "trials": list(records),
        "front": [record["trial"] for record in edge],
        "recipes": {str(number): path for number, path in recipes.items()},
        "best": None
        if best is None
        else {
            "trial": best["trial"],
            "recipe": RECIPE,
            "command": session_command(session),
        },
        "unmet": unmet(records, settings) if best is None else [],
    }


def session_command(session: Session) -> str:
    """The build that makes the best one."""
    recipe, here = session.folder / RECIPE, Path.cwd()
    recipe = recipe.relative_to(here) if recipe.is_relative_to(here) else recipe
    build = session.request.build
    words = ["--target", session.target.name, "--model", build.model, "--recipe", recipe]
    out = [] if str(build.out) == "build" else ["--out", build.out]
    return shell_line("edgeforge", "build", *words, *out)
