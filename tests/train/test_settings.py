"""Settings, their options, and the steps that follow from them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from common.errors import UserError
from toolchain.settings_options import add_settings, settings_of
from toolchain.train import checkpoints
from toolchain.train.points import plan_points
from toolchain.train.settings import Finetune


def parsed(*words: str) -> Finetune:
    parser = argparse.ArgumentParser()
    add_settings(parser, Finetune, "training")
    return settings_of(parser.parse_args(words), Finetune)


def test_defaults_are_those_of_the_settings() -> None:
    assert parsed() == Finetune()
    assert (Finetune().rank, Finetune().alpha, Finetune().rate, Finetune().epochs) == (
        *(8, 16, 2e-4, 3),
    )
    assert Finetune(method="full").rate == 2e-5


def test_options_go_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("rank: 4\nepochs: 2\naccelerate_config: fsdp.yaml\n")
    found = parsed("--settings", str(file), "--rank", "32", "--no-packing", "--bf16", "true")
    assert (found.rank, found.epochs, found.packing, found.bf16) == (32, 2, False, True)
    assert found.accelerate_config == tmp_path / "fsdp.yaml"
    found = parsed("--target-modules", "q_proj,v_proj", "--rank-pattern", "q_proj=2", "--dora")
    assert found.target_modules == ("q_proj", "v_proj")
    assert found.rank_pattern == {"q_proj": 2} and found.dora
    assert parsed("--target-modules", "all-linear").target_modules == "all-linear"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--rank", "0", "--epochs", "-1"), "(?s)2 faults.*'rank'.*'epochs'"),
        (("--method", "full", "--quantization", "nf4"), "needs method lora"),
        (("--batch-size", "3", "--processes", "2"), "cannot be shared by 2 processes"),
        (("--learning-rate", "nan"), "learning_rate"),
        (("--rank-pattern", "q_proj"), "takes NAME=VALUE"),
    ],
)
def test_settings_out_of_range(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        parsed(*words)


def test_a_file_with_an_unknown_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("learning_rat: 1\n")
    with pytest.raises(UserError, match=r"(?s)s.yaml.*did you mean 'learning_rate'"):
        parsed("--settings", str(tmp_path / "s.yaml"))


def test_points_lie_on_logged_steps() -> None:
    settings = Finetune(batch_size=2, accumulate=2, evals_per_epoch=3, saves_per_epoch=4)
    points = plan_points(50_001, settings, validates=True)
    assert points.steps_per_epoch == 12_501 and points.total_steps == 37_503
    assert all(points.logs(step) for step in points.save)
    assert len(points.evaluate) == 9 and points.evaluate <= points.save
    assert max(points.save) == points.total_steps
    assert len([s for s in range(1, points.total_steps + 1) if points.logs(s)]) <= 1001
    assert not plan_points(10, settings, validates=False).evaluate
    assert plan_points(10, Finetune(epochs=0.1), validates=True).total_steps == 1
    few = plan_points(10, Finetune(max_steps=3), validates=True)
    assert (few.total_steps, max(few.evaluate)) == (3, 3)


def test_checkpoints_count_once_sealed(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        (folder := tmp_path / f"checkpoint-{step}").mkdir()
        (folder / "weights").write_bytes(b"w" * 8)
        if step < 100:
            checkpoints.seal(folder)
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-10"
    (tmp_path / "checkpoint-10" / "weights").write_bytes(b"w")
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-9"
    assert checkpoints.drop_incomplete(tmp_path) == ["checkpoint-10", "checkpoint-100"]
    for step in (10, 11, 12):
        (folder := tmp_path / f"checkpoint-{step}").mkdir()
        checkpoints.seal(folder)
    checkpoints.rotate(tmp_path, keep=(9,))
    steps = [checkpoints.step_of(path) for path in checkpoints.complete_checkpoints(tmp_path)]
    assert steps == [9, 11, 12]


def test_only_what_changes_the_result_is_in_the_stage_key(tmp_path: Path) -> None:
    from toolchain.stage import Input
    from toolchain.train.finetune import Config

    data = Input(digest="d", path=tmp_path)

    def dumped(settings: Finetune) -> dict[str, object]:
        return Config(data=data, settings=settings).model_dump(mode="json")

    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("num_processes: 2\n")
    here = dumped(Finetune(accelerate_config=tmp_path / "a.yaml", saves_per_epoch=9))
    assert here == dumped(Finetune(accelerate_config=tmp_path / "b.yaml"))
    assert here != dumped(Finetune())
    assert str(tmp_path) not in str(here)
    (tmp_path / "b.yaml").write_text("num_processes: 4\n")
    assert here != dumped(Finetune(accelerate_config=tmp_path / "b.yaml"))
    assert dumped(Finetune()) != dumped(Finetune(processes=2, batch_size=8))  # sums round apart
    with pytest.raises(UserError, match=r"accelerate_config .*none.yaml does not exist"):
        dumped(Finetune(accelerate_config=tmp_path / "none.yaml"))
