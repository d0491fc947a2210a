"""Stages run once per input; a failed or killed one leaves nothing that could be used."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import UserError
from common.locks import passing_turn
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.pipeline import Workspace, finished, run_stage, writing
from toolchain.stage import Input, StageConfig, resume_folder


class Config(StageConfig):
    suffix: str = ""
    extra: Input | None = None


def upper(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """A real, tiny stage: upper-cases the source's text."""
    if config.suffix == "fail":
        (out_dir / "half.txt").write_text("half")
        raise RuntimeError("stage failed")
    text = source.file("in.txt").read_text().upper() + config.suffix
    (out_dir / "out.txt").write_text(text)
    return artifacts.describe(out_dir, format="text", stage="upper", parents=[source.digest])


@pytest.fixture
def stage() -> SimpleNamespace:
    return SimpleNamespace(NAME="upper", VERSION=1, TOOLS=("pydantic",), run=upper)


def source_of(folder: Path, text: str) -> Artifact:
    folder.mkdir()
    (folder / "in.txt").write_text(text)
    return artifacts.describe(folder, format="text", stage="source")


def test_a_finished_stage_is_not_run_again(tmp_path: Path, stage: SimpleNamespace) -> None:
    source, work = source_of(tmp_path / "s", "hello"), Workspace(tmp_path / "w")
    first = run_stage(stage, source, Config(suffix="!"), work)
    again = run_stage(stage, source, Config(suffix="!"), work)
    assert first == again
    assert first.file("out.txt").read_text() == "HELLO!"
    assert [(event.stage, event.reused) for event in work.events] == [
        ("upper", False),
        ("upper", True),
    ]
    # What it took the first time is still known, and stands beside the folder, not in it.
    cost, kept = (event.cost for event in work.events)
    assert cost == kept and cost is not None and cost.peak_rss_bytes > 1_000_000
    assert cost.series and set(first.files) == {"out.txt"}


def test_every_input_is_part_of_the_key(tmp_path: Path, stage: SimpleNamespace) -> None:
    work = Workspace(tmp_path / "w")
    one, two = source_of(tmp_path / "1", "one"), source_of(tmp_path / "2", "two")
    (tmp_path / "extra").write_text("x")
    configs = [
        Config(),
        Config(suffix="!"),
        Config(extra=Input.of_file(tmp_path / "extra")),
        Config(extra=Input(digest="0", path=tmp_path / "extra")),
    ]
    folders = {run_stage(stage, source, c, work).path for source in (one, two) for c in configs}
    assert len(folders) == 8
    stage.VERSION = 2
    assert not finished(stage, one, Config(), work)


def test_the_place_of_an_input_is_not(tmp_path: Path, stage: SimpleNamespace) -> None:
    work, source = Workspace(tmp_path / "w"), source_of(tmp_path / "1", "one")
    run_stage(stage, source, Config(extra=Input(digest="7", path=tmp_path / "here")), work)
    assert finished(stage, source, Config(extra=Input(digest="7", path=tmp_path / "there")), work)


def test_failure_leaves_nothing(tmp_path: Path, stage: SimpleNamespace) -> None:
    source, work = source_of(tmp_path / "s", "hello"), Workspace(tmp_path / "w")
    with pytest.raises(RuntimeError, match="stage failed"):
        run_stage(stage, source, Config(suffix="fail"), work)
    assert list(work.stages.iterdir()) == []


def test_what_a_stage_keeps_to_go_on_from_outlives_a_failure_and_goes_at_the_end(
    tmp_path: Path,
) -> None:
    def count(source: Artifact, config: Config, out_dir: Path) -> Artifact:
        kept = resume_folder(out_dir)
        kept.mkdir(exist_ok=True)
        steps = len(list(kept.iterdir())) + 1
        (kept / str(steps)).touch()
        if steps < 2:
            raise RuntimeError("stopped")
        (out_dir / "steps.txt").write_text(str(steps))
        return artifacts.describe(out_dir, format="text", stage="count")

    stage = SimpleNamespace(NAME="count", VERSION=1, TOOLS=("pydantic",), run=count)
    source, work = source_of(tmp_path / "s", "hello"), Workspace(tmp_path / "w")
    with pytest.raises(RuntimeError):
        run_stage(stage, source, Config(), work)
    done = run_stage(stage, source, Config(), work)
    assert done.file("steps.txt").read_text() == "2"
    cost = f".{done.path.name}.cost.json"
    assert {path.name for path in work.stages.iterdir()} == {done.path.name, cost}


def test_what_killed_runs_left_is_cleared_and_what_is_made_now_stays(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "w")
    for name in (".a-1.partial", ".a-1.resume", ".b-2.resume", ".c-3.partial", "a-1", ".d-4.old"):
        (work.stages / name).mkdir(parents=True)
    for name in ("a-1/artifact.json", ".facts.json.partial", ".a-1.lock", ".d-4.old/artifact.json"):
        (work.stages / name).touch()
    with passing_turn(work.stages / ".c-3.lock"), writing(work):
        left = {path.name for path in work.stages.iterdir()}
    # Moved away in the moment before its successor came, d-4 is there again.
    assert left == {"a-1", ".b-2.resume", ".c-3.partial", ".c-3.lock", "d-4"}
    assert (work.stages / "d-4" / "artifact.json").is_file()
    with writing(work), pytest.raises(UserError, match="another build is writing"), writing(work):
        pass


@pytest.mark.parametrize("name", ["out.txt", "artifact.json"])
def test_a_finished_stage_that_was_damaged_is_not_used(
    name: str, tmp_path: Path, stage: SimpleNamespace
) -> None:
    source, work = source_of(tmp_path / "s", "hello"), Workspace(tmp_path / "w")
    made = run_stage(stage, source, Config(), work)
    path = made.path / name
    path.write_text(path.read_text().replace("HELLO", "JELLO").replace("text", "test"))
    with pytest.raises(UserError, match="damaged") as refused:
        run_stage(stage, source, Config(), work)
    assert str(made.path) in str(refused.value) and "made again" in str(refused.value)
    shutil.rmtree(made.path)
    assert run_stage(stage, source, Config(), work).file("out.txt").read_text() == "HELLO"
