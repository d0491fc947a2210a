"""The student's own answers: what is learned of them, and that a run that goes on is the same."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from distillations import distil
from train_runs import chat_rows, log_of, write_data

from toolchain.compress.distill.on_policy import is_own_turn, own_answers
from toolchain.compress.distill.settings import Distill


def test_turns_follow_from_the_step_alone() -> None:
    settings = Distill(on_policy=0.3, seed=5)
    turns = [is_own_turn(settings, step) for step in range(2000)]
    assert turns == [is_own_turn(settings, step) for step in range(2000)]
    assert 0.25 < sum(turns) / len(turns) < 0.35
    assert not any(is_own_turn(Distill(), step) for step in range(100))
    assert all(is_own_turn(Distill(on_policy=1.0), step) for step in range(100))


def test_prompts_stay_and_answers_alone_are_learned(student: Path) -> None:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(student)
    end = network.generation_config.eos_token_id
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 8, 9, 0], [5, 6, 7, 8, 9, 10], [0, 0, 0, 0, 0, 0]]),
        "labels": torch.tensor(
            [[-100, -100, -100, 8, 9, -100], [-100, 6, 7, 8, 9, 10], [-100] * 6]
        ),
        "rows": torch.tensor([4, 2, -1]),
    }
    settings = Distill(on_policy=1.0, on_policy_tokens=5)
    state = torch.get_rng_state()
    made = own_answers(network, batch, settings, 3, 0)
    assert torch.equal(torch.get_rng_state(), state)
    again = own_answers(network, batch, settings, 3, 0)
    assert torch.equal(made["input_ids"], again["input_ids"])
    assert not torch.equal(
        made["input_ids"], own_answers(network, batch, settings, 4, 0)["input_ids"]
    )
    for row, prompt in enumerate(([5, 6, 7], [5, 6, 7])):
        ids, labels = made["input_ids"][row].tolist(), made["labels"][row].tolist()
        assert ids[:3] == prompt and labels[:3] == [-100] * 3
        length = int(made["attention_mask"][row].sum())
        assert labels[3:length] == ids[3:length] and set(labels[length:]) <= {-100}
        assert length == 8 or ids[length - 1] == end
    assert set(made["labels"][2].tolist()) == {-100}


@pytest.mark.usefixtures("in_process")
def test_a_stopped_run_goes_on_to_the_same_bytes(
    student: Path, teacher: Path, tmp_path: Path
) -> None:
    """With everything that has a state: an adapter, projections, samples."""
    from toolchain.train.callbacks import Steering

    rows = chat_rows(8)
    data = write_data(tmp_path / "d", train=rows[:6], validation=rows[6:])
    run = {"method": "lora", "hidden_weight": 1.0, "on_policy": 0.5, "on_policy_tokens": 4,
           "saves_per_epoch": 100, "batch_size": 2, "dropout": 0.1}  # fmt: skip
    unbroken = distil(student, teacher, data, tmp_path / "v", **run)
    on_step_end = Steering.on_step_end

    def interrupt(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        on_step_end(self, args, state, control, **more)
        if state.global_step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steering, "on_step_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            distil(student, teacher, data, tmp_path / "w", **run)
    saved = list((tmp_path / "w/.stages").glob(".*.resume/checkpoints/*/projections.safetensors"))
    assert saved
    again = distil(student, teacher, data, tmp_path / "w", **run)
    assert log_of(again) == log_of(unbroken)
    assert again.digest == unbroken.digest
    assert not [name for name in again.files if "projections" in name]
