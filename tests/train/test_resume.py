"""A run that was killed, stopped, or lost its disk goes on to the very bytes of an unbroken one."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from train_runs import log_of, tune

from common.errors import Lack
from toolchain.artifact import Artifact
from toolchain.train import checkpoints

ROOT = Path(__file__).resolve().parents[2]
RUN = {"epochs": 3, "saves_per_epoch": 100}
_WAIT_SEC = 600


@pytest.fixture(scope="module")
def unbroken(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """In a process of its own, as users run it."""
    return tune(base, data, tmp_path_factory.mktemp("unbroken"), **RUN)


def saved(root: Path) -> Path:
    return next((root / ".stages").glob(".*.resume/checkpoints"))


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at the end of a step."""
    from toolchain.train.callbacks import Steering

    on_step_end = Steering.on_step_end

    def interrupt(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        on_step_end(self, args, state, control, **more)
        if state.global_step == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Steering, "on_step_end", interrupt)


def stopped(base: Path, data: Path, root: Path, step: int) -> Path:
    """The checkpoints of a run that was stopped at the step."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(step, patch)
        with pytest.raises(KeyboardInterrupt):
            tune(base, data, root, **RUN)
    return saved(root)


def test_sigkill(unbroken: Artifact, base: Path, data: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from train_runs import tune; "
        "tune(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), "
        f"**{RUN!r})"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
    }
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(base), str(data), str(tmp_path / "w")],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + _WAIT_SEC
    pattern = ".stages/.*.resume/checkpoints/checkpoint-*/complete.json"
    while len(list((tmp_path / "w").glob(pattern))) < 2 and time.monotonic() < deadline:
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)  # the stage; its worker ends with it
    child.wait()
    assert not (tmp_path / "w/.stages" / unbroken.path.name).exists()
    step = checkpoints.step_of(checkpoints.complete_checkpoints(saved(tmp_path / "w"))[-1])
    assert step < unbroken.measurements["steps"]
    again = tune(base, data, tmp_path / "w", **RUN)
    assert again.digest == unbroken.digest
    assert log_of(again) == log_of(unbroken)


@pytest.mark.usefixtures("in_process")
def test_ctrl_c_then_a_damaged_checkpoint(
    unbroken: Artifact, base: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = stopped(base, data, tmp_path / "w", 4)
    assert [p.name for p in checkpoints.complete_checkpoints(folder)] == [
        "checkpoint-2",
        "checkpoint-3",
    ]
    with (folder / "checkpoint-3" / "optimizer.pt").open("r+b") as stream:
        stream.truncate(100)
    (folder / "checkpoint-4").mkdir()  # as a kill leaves it
    again = tune(base, data, tmp_path / "w", **RUN)
    said = capfd.readouterr().err
    assert "checkpoint-3, checkpoint-4 was not saved to the end" in said
    assert "going on from step 2" in said
    assert again.digest == unbroken.digest


@pytest.mark.usefixtures("in_process")
def test_a_full_disk_keeps_what_was_saved(
    unbroken: Artifact, base: Path, data: Path, tmp_path: Path
) -> None:
    folder = stopped(base, data, tmp_path / "w", 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(Lack, match="checkpoint 3 cannot be saved") as caught:
            tune(base, data, tmp_path / "w", **RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "kept (step 2)" in caught.value.mend
    assert not (folder / "checkpoint-3").exists()
    again = tune(base, data, tmp_path / "w", **RUN)
    assert again.digest == unbroken.digest


@pytest.mark.usefixtures("in_process")
def test_checkpoints_of_other_inputs_are_not_used(
    base: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stopped(base, data, tmp_path / "w", 3)
    tune(base, data, tmp_path / "w", **RUN, seed=1)
    assert "going on" not in capfd.readouterr().err
