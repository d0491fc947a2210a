"""The parts of a search that need no model: space, budget, front, texts, recipes, study."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.files import sha256_json
from targets.registry import load_target
from toolchain.data.text import TextSource
from toolchain.job import run_by
from toolchain.recipe import Recipe, load_recipe
from toolchain.search.front import axes, front, unmet, within
from toolchain.search.recipes import base_settings, write_recipe
from toolchain.search.settings import Budget, Settings
from toolchain.search.space import MIX, Point, Space, point_of
from toolchain.search.study import Study, sqlite_url
from toolchain.search.texts import split_texts

SPACE = Space(
    {
        "quantization": ("Q3_K_M", "Q4_K_M", "Q8_0"),
        "prune_ratio": (0.0, 0.2),
        "ffn_down": (MIX, "Q6_K"),
        "kv_cache_type": ("q8_0", "f16"),
        "context_tokens": (None,),
        "threads": (None,),
    }
)
SIZE = Settings("size", Budget(max_kld=0.05), "planned")


def record(number: int, **figures: float) -> dict[str, Any]:
    return {"trial": number, "text": f"point {number}", "figures": figures, "reason": ""}


def source(name: str, documents: tuple[str, ...]) -> TextSource:
    return TextSource(name, documents, sha256_json(list(documents)), "given")


def test_points_and_indices_are_each_others_inverse() -> None:
    every = list(SPACE.points())
    assert len(every) == SPACE.size == 24
    points = [SPACE.at(indices) for indices in every]
    assert len(set(points)) == 24
    for indices, point in zip(every, points, strict=True):
        assert SPACE.indices(point) == indices
        assert point_of(point.as_json()) == point
    assert SPACE.indices(Point("Q5_K_M")) is None
    assert SPACE.at({"ffn_down": 1}).patterns() == {r"ffn_down(_exps|_shexp)?\.weight$": "Q6_K"}


def test_neighbours_are_one_step_away() -> None:
    corner = {"quantization": 0, "prune_ratio": 0, "ffn_down": 0, "kv_cache_type": 0}
    near = SPACE.neighbours(corner)
    assert len(near) == 4
    assert all(sum(n[k] != corner[k] for k in corner) == 1 for n in near)
    assert sorted(map(str, SPACE.drawn(random.Random(0), 5))) == sorted(map(str, SPACE.points()))


def test_the_front_has_what_nothing_beats() -> None:
    records = [
        record(0, kld=0.01, size_bytes=900),
        record(1, kld=0.02, size_bytes=700),
        record(2, kld=0.03, size_bytes=800),  # beaten by 1
        record(3, kld=0.09, size_bytes=500),
        record(4, kld=0.02, size_bytes=700),  # the same as 1
        record(5, size_bytes=100),  # never scored
    ]
    edge = front(records, axes(SIZE, SPACE))
    assert [row["trial"] for row in edge] == [3, 1, 0]
    good = within(records, SIZE)
    assert [row["trial"] for row in good] == [1, 4, 2, 0]


def test_a_longer_context_is_worth_something_on_the_front() -> None:
    space = Space({**SPACE.choices, "context_tokens": (1024, 2048)})
    settings = Settings("decode", Budget(), "planned")
    records = [
        record(0, kld=0.01, decode_tokens_per_sec=50.0, context_tokens=2048),
        record(1, kld=0.01, decode_tokens_per_sec=60.0, context_tokens=1024),
        record(2, kld=0.01, decode_tokens_per_sec=49.0, context_tokens=1024),
    ]
    assert [r["trial"] for r in front(records, axes(settings, space))] == [0, 1]


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(max_kld=0.005), ["max_kld 0.005: nearest 0.01 (point 0)"]),
        (Budget(max_kld=0.005, max_bytes=600), ["max_kld 0.005: nearest 0.01 (point 0)"]),
        (Budget(max_kld=0.02, max_bytes=600), ["each limit is met"]),
        (Budget(min_decode=10.0), ["min_decode 10: nothing was measured against it"]),
    ],
)
def test_budgets_that_nothing_meets_are_named(budget: Budget, said: list[str]) -> None:
    records = [record(0, kld=0.01, size_bytes=900), record(1, kld=0.09, size_bytes=500)]
    settings = Settings("size", budget, "planned")
    assert not within(records, settings)
    lines = unmet(records, settings)
    assert len(lines) == len(said)
    assert all(line.startswith(words) for line, words in zip(lines, said, strict=True))


def test_texts_are_parted_without_a_shared_document(tmp_path: Path) -> None:
    documents = tuple(f"document {i}\nwith two lines" for i in range(40)) + ("document 0\n",) * 3
    evaluation = source("evaluation", ("another one",))
    texts = split_texts(source("calibration", documents), evaluation, tmp_path)
    fit, score = set(texts.fit.documents), set(texts.score.documents)
    assert not fit & score and len(fit) == 31 and len(score) == 10
    assert texts.fit_file.is_file()
    again = split_texts(source("calibration", documents), evaluation, tmp_path)
    assert again.fit.digest == texts.fit.digest and again.score.digest == texts.score.digest


def test_one_long_document_is_parted_too(tmp_path: Path) -> None:
    long = " ".join(f"word{i}" for i in range(3000))
    texts = split_texts(source("c", (long,)), source("e", ("other",)), tmp_path)
    assert len(texts.score.documents) >= 3
    assert set("\n".join(texts.fit.documents).split()).isdisjoint(
        "\n".join(texts.score.documents).split()
    )


def test_a_text_too_short_or_shared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too short"):
        split_texts(source("c", ("one",)), source("e", ("other",)), tmp_path)
    shared = source("c", tuple(f"document {i}" for i in range(20)))
    with pytest.raises(UserError, match="share"):
        split_texts(shared, source("e", ("document 3",)), tmp_path)


def test_a_point_is_written_as_a_recipe_that_loads(tmp_path: Path) -> None:
    (tmp_path / "calibration.txt").write_text("some text\n")
    point = Point("Q4_K_M", (("ffn_down", "Q6_K"),), 0.2, 1024, "q8_0", 3)
    for path in (tmp_path / "recipe.yaml", tmp_path / "recipes" / "trial-001.yaml"):
        write_recipe(path, point, {"export": {"imatrix": False}}, "Q4_K_M", ("a note",))
        recipe = load_recipe(str(path))
        assert recipe.stages == ("prune", "export", "bundle", "smoke")
        assert (recipe.prune.ratio, recipe.prune.quantization) == (0.2, "Q4_K_M")
        assert recipe.export.calibration == tmp_path / "calibration.txt" or (
            recipe.export.calibration and recipe.export.calibration.samefile(
                tmp_path / "calibration.txt"
            )
        )  # fmt: skip
        assert not recipe.export.imatrix and recipe.export.tensor_types == point.patterns()
        target = run_by(recipe, load_target("laptop"))
        assert (target.context_tokens, target.kv_cache_type, target.threads) == (1024, "q8_0", 3)
    plain = write_recipe(tmp_path / "plain.yaml", Point("Q8_0"), {}, "Q4_K_M")
    assert load_recipe(str(plain)).stages == ("export", "bundle", "smoke")
    assert run_by(load_recipe(str(plain)), load_target("laptop")) == load_target("laptop")


def test_a_recipe_asks_no_more_threads_than_the_target_has() -> None:
    recipe = Recipe.model_validate({"name": "r", "run": {"threads": 99}})
    with pytest.raises(UserError, match="with run of recipe 'r'") as error:
        run_by(recipe, load_target("laptop"))
    assert "exceeds cores" in str(error.value)


def test_recipes_that_change_the_model_are_no_base() -> None:
    with pytest.raises(UserError, match="stages before the export"):
        base_settings(load_recipe("prune-lora", (Path(__file__),)))
    chosen = Recipe.model_validate({"export": {"tensor_types": {"x": "Q8_0"}}})
    with pytest.raises(UserError, match="which the search chooses"):
        base_settings(chosen)
    kept = base_settings(Recipe.model_validate({"export": {"imatrix": False}}))
    assert kept == {"export": {"imatrix": False}}


def opened(path: Path, name: str = "s", **bound: str) -> Study:
    return Study(sqlite_url(path), name, SIZE, SPACE, bound or {"model": "a", "texts": "b"})


def measured(study: Study, indices: Mapping[str, int], value: float) -> None:
    """A finished trial of this point."""
    study.inner.enqueue_trial(dict(indices))

    def objective(trial: Any) -> float:
        found = study.suggest(trial)
        trial.set_user_attr("key", str(sorted(found.items())))
        trial.set_user_attr("record", {"figures": {"size_bytes": value}})
        trial.set_constraint("max_kld", -1.0)
        return value

    study.run_one(objective)


def test_a_study_is_opened_again_with_its_trials(tmp_path: Path) -> None:
    study = opened(tmp_path / "study.db")
    points = list(SPACE.points())
    for i in (3, 4, 5):
        measured(study, points[i], float(i))
    again = opened(tmp_path / "study.db")
    assert [r["figures"]["size_bytes"] for r in again.records()] == [3.0, 4.0, 5.0]
    assert str(sorted(points[3].items())) in again.known_keys()
    near = next(again.nearby(random.Random(0)))
    assert any(near in SPACE.neighbours(points[i]) for i in (3, 4, 5))


@pytest.mark.filterwarnings("ignore:Heartbeat")
def test_a_trial_that_a_killed_run_left_open_is_given_up(tmp_path: Path) -> None:
    import platform

    study = opened(tmp_path / "study.db")
    measured(study, next(SPACE.points()), 1.0)
    study.inner.ask().set_user_attr("machine", platform.node())
    other = study.inner.ask()
    other.set_user_attr("machine", "another machine")
    again = opened(tmp_path / "study.db")
    assert again.drop_stale() == 1
    assert [t.number for t in again.running()] == [other.number]
    assert len(again.finished()) == 1


def test_another_models_study_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "study.db")
    with pytest.raises(UserError, match="is of another search") as error:
        opened(tmp_path / "study.db", model="other", texts="b")
    assert "model: a there, other now" in str(error.value)
    assert "texts" not in "\n".join(error.value.details)
    opened(tmp_path / "study.db", "second", model="other", texts="b")


def test_a_broken_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(b"this is no database, just some text\n" * 100)
    with pytest.raises(UserError, match=r"study\.db cannot be used: file is not a database"):
        opened(path)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "'nonsense' is no database URL"),
        ("mysql://me:secret@127.0.0.1/x", "driver"),
        ("sqlite:////no/such/folder/x.db", "cannot be used"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_clear_error(url: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        Study(url, "s", SIZE, SPACE, {"model": "a"})
    assert "secret" not in str(error.value)
