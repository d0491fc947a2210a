"""The study: Optuna's record of all trials, bound to what they were made of, resumable.

SQLite for one machine (several workers share it), a database URL for several machines. Points that
were measured are never measured again: one that gives the same file is skipped, and where the
sampler has nothing new to say, a neighbour of the best points is tried.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from toolchain.search.settings import Settings
from toolchain.search.space import Space

FILE = "study.db"
_BOUND, _MACHINE, KEY, RECORD = "bound_to", "machine", "key", "record"
_HEARTBEAT_SEC, _GRACE_SEC = 60, 300
_STARTUP_SHARE, _MOST_STARTUP = 4, 10
_BEST = 5  # points whose neighbours are tried
_DRAWN = 2000


class Study:
    """An open study. `bound` is what its trials are comparable under: name → digest or value."""

    def __init__(
        self, url: str, name: str, settings: Settings, space: Space, bound: Mapping[str, str]
    ) -> None:
        self.url, self.name, self.settings, self.space = url, name, settings, space
        self.startup = _MOST_STARTUP
        with _readable(url):
            self._study = _opened(url, name, settings)
            _require_same(self._study, dict(bound), url, name)

    @property
    def inner(self) -> Any:
        """Optuna's own object."""
        return self._study

    def take_sampler(self, worker: int, trials: int, skipped: int) -> None:
        """Take a sampler for this worker's next trial, after so many known points in a row. What it
        draws depends on what is finished alone, so a study that was killed goes on as it would
        have."""
        import optuna

        drawn = len(self.finished()) + 7919 * skipped
        seed = self.settings.seed * 1_000_003 + worker * 1009 + drawn
        self.startup = max(2, min(_MOST_STARTUP, trials // _STARTUP_SHARE))
        self._study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=self.startup, multivariate=True, constant_liar=True, seed=seed
        )

    def enqueue(self, points: Sequence[Mapping[str, int]]) -> None:
        """Points that a study looks at first: a new one, or one that lost its first to a kill."""
        import optuna

        with _readable(self.url):
            trials = self._study.get_trials(deepcopy=False)
            if all(trial.state == optuna.trial.TrialState.FAIL for trial in trials):
                for point in points:
                    self._study.enqueue_trial(dict(point))

    def finished(self) -> list[Any]:
        """Trials that came to an end: measured, or pruned for a reason."""
        import optuna

        state = optuna.trial.TrialState
        with _readable(self.url):
            return list(
                self._study.get_trials(deepcopy=False, states=(state.COMPLETE, state.PRUNED))
            )

    def running(self) -> list[Any]:
        import optuna

        with _readable(self.url):
            return list(
                self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
            )

    def records(self) -> list[dict[str, Any]]:
        """What every finished trial left, in order, with its number."""
        found = []
        for trial in self.finished():
            if RECORD in trial.user_attrs:
                found.append({"trial": trial.number, **trial.user_attrs[RECORD]})
        return found

    def known_keys(self, but: int | None = None) -> set[str]:
        """Keys of points that are measured, or being measured by another worker."""
        trials = [*self.finished(), *self.running()]
        return {t.user_attrs[KEY] for t in trials if KEY in t.user_attrs and t.number != but}

    def note(self, name: str, value: Any) -> None:
        """A fact of the whole study."""
        with _readable(self.url):
            self._study.set_user_attr(name, value)

    def noted(self, name: str) -> Any:
        with _readable(self.url):
            return self._study.user_attrs.get(name)

    def drop_stale(self) -> int:
        """Give up trials that a killed run of this machine left open, and those of other machines
        without a sign of life; how many."""
        import optuna

        stale = 0
        with _readable(self.url):
            for trial in self.running():
                if trial.user_attrs.get(_MACHINE) == platform.node():
                    with contextlib.suppress(Exception):  # another machine was quicker
                        self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                    stale += 1
            optuna.storages.fail_stale_trials(self._study)
        return stale

    def run_one(self, objective: Any) -> None:
        """One trial: `objective(trial)` returns a value, raises Optuna's `TrialPruned`, or raises
        `Skipped` for a point that is known."""
        from toolchain.search.trial import Skipped

        def marked(trial: Any) -> float:
            trial.set_user_attr(_MACHINE, platform.node())
            value: float = objective(trial)
            return value

        with _readable(self.url):
            self._study.optimize(marked, n_trials=1, catch=(Skipped,))

    def suggest(self, trial: Any) -> dict[str, int]:
        """The point that the sampler wants, as indices."""
        return {
            name: trial.suggest_int(name, 0, count - 1) for name, count in self.space.open.items()
        }

    def nearby(self, chance: random.Random) -> Iterator[dict[str, int]]:
        """Neighbours of the best points, then points anywhere, in random order."""
        best = self._best_indices()
        near = [n for indices in best for n in self.space.neighbours(indices)]
        chance.shuffle(near)
        yield from near
        yield from self.space.drawn(chance, _DRAWN)

    def _best_indices(self) -> list[dict[str, int]]:
        complete = [
            t
            for t in self.finished()
            if t.value is not None and all(c <= 0 for c in t.constraints.values())
        ]
        sign = -1 if self.settings.maximizes else 1
        complete.sort(key=lambda t: sign * t.value)
        return [dict(t.params) for t in complete[:_BEST]]


def sqlite_url(path: Path) -> str:
    """The URL of the database file."""
    return f"sqlite:///{path}"


def _opened(url: str, name: str, settings: Settings) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if _is_sqlite(url) else {}
    storage = optuna.storages.RDBStorage(
        url,
        engine_kwargs=options,
        heartbeat_interval=_HEARTBEAT_SEC,
        grace_period=_GRACE_SEC,
    )
    return optuna.create_study(
        storage=storage, study_name=name, direction=settings.direction, load_if_exists=True
    )


def _is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def _require_same(study: Any, bound: dict[str, str], url: str, name: str) -> None:
    known = study.user_attrs.get(_BOUND)
    if known is None:
        study.set_user_attr(_BOUND, bound)
        return
    other = [
        f"{key}: {known.get(key, 'not there')} there, {bound.get(key, 'not asked for')} now"
        for key in sorted({*known, *bound})
        if known.get(key) != bound.get(key)
    ]
    if other:
        raise UserError(
            f"study '{name}' in {_shown(url)} is of another search",
            "begin another one beside it: --study NAME (finished stages are used again), or give "
            "the same model, target, texts and settings to go on with this one",
            details=other,
        )


@contextlib.contextmanager
def _readable(url: str) -> Iterator[None]:
    """Whatever the database says becomes one clear error."""
    import sqlalchemy.exc as sql
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or error
        raise UserError(
            f"the driver for {_shown(url)} is not installed: {missing}",
            "install it beside edgeforge (PostgreSQL: pip install psycopg2-binary; MySQL: pip "
            "install PyMySQL), or leave out --storage for one machine",
        ) from None
    except sql.ArgumentError:
        raise UserError(
            f"'{_shown(url)}' is no database URL",
            "for example postgresql://USER:PASSWORD@HOST/DATABASE; leave out --storage for a file "
            "beside the results",
        ) from None
    except (sql.SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "storage" not in str(error).lower():
            raise
        raise UserError(
            f"the study's database {_shown(url)} cannot be used: {_reason(error)}",
            "a damaged file: move it away, the finished stages beside it are used again; a server: "
            "check address, rights and that it runs",
        ) from None


def _reason(error: BaseException) -> str:
    told = error.__cause__ or error
    original = getattr(told, "orig", None) or told
    return " ".join(str(original).split())[:200]


def _shown(url: str) -> str:
    """The URL without a password."""
    import re

    return re.sub(r"://([^:/@]+):[^@]*@", r"://\1:…@", url).removeprefix("sqlite:///")
