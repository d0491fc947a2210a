"""A decode speed as the aim: what is found is as fast as asked, by the planner's own arithmetic."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tiny_encoders import as_source
from tiny_families import calibration, tiny_decoder, tiny_encoder

from common.errors import UserError
from targets.registry import load_target
from targets.schema import Target
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.checkpoint.inspect import inspect
from toolchain.compress.prune import stage
from toolchain.compress.prune.candidates import Choices, find_candidates
from toolchain.compress.prune.config import sized_config
from toolchain.compress.prune.layout import Layout, find_layout
from toolchain.compress.prune.settings import Prune
from toolchain.compress.prune.shape import Shape, places, tensor_shape
from toolchain.plan import plan_model
from toolchain.stage import Input

WIDE = {"hidden_size": 256, "intermediate_size": 1024, "head_dim": 64}


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> CheckpointInfo:
    return inspect(tiny_decoder(tmp_path_factory.mktemp("aim") / "base", "llama", **WIDE))


@pytest.fixture(scope="module")
def slow() -> Target:
    """A device on which bytes count, not layers."""
    target = load_target("jetson")
    memory = target.memory.model_copy(update={"bandwidth_gb_per_sec": 0.1})
    accelerator = target.accelerator.model_copy(update={"bandwidth_gb_per_sec": None})
    update = {"memory": memory, "accelerator": accelerator, "context_tokens": 256}
    return target.model_copy(update=update)


def found(info: CheckpointInfo, target: Target | None, **aim: object) -> Choices:
    settings = Prune.model_validate({"quantization": "Q4_K_M", "snap": 32, **aim})
    return find_candidates(info, find_layout(info), settings, target)


def sized(info: CheckpointInfo, layout: Layout, shape: Shape) -> CheckpointInfo:
    """The checkpoint as it would be with these sizes."""
    where = places(info, layout)
    tensors = tuple(
        dataclasses.replace(tensor, shape=tensor_shape(tensor.shape, place, shape))
        for tensor in info.tensors
        if (place := where[tensor.name]).layer is None or place.layer < shape.layers
    )
    config = sized_config(info, layout, shape, range(shape.layers))
    return dataclasses.replace(info, tensors=tensors, config=config)


def planned_speed(info: CheckpointInfo, target: Target) -> float:
    return plan_model(info, target, "Q4_K_M").plan.candidates[0].decode_tokens_per_sec


def test_every_shape_is_as_fast_as_asked(info: CheckpointInfo, slow: Target) -> None:
    before = planned_speed(info, slow)
    choices = found(info, slow, decode_speedup=1.3)
    assert choices.sec is not None and choices.found
    for candidate in choices.found[:2]:
        smaller = sized(info, find_layout(info), candidate.shape)
        speed = planned_speed(smaller, slow)
        # The mix of types depends on the layer's number, which the fast estimate averages out.
        assert 1 / choices.sec(candidate.shape) == pytest.approx(speed, rel=0.05)
        assert 1.3 * 0.95 <= speed / before <= 1.3 * 1.07
    tokens = 1.3 / choices.sec(choices.original)
    again = found(info, slow, decode_tokens_per_sec=tokens)
    assert {c.shape for c in again.found} == {c.shape for c in choices.found}


def test_what_was_expected_and_what_was_measured(tmp_path: Path) -> None:
    """On the board itself a tiny model's time is its layers': three of four are 1.33 times as
    fast."""
    source, target = tiny_decoder(tmp_path / "base", "llama-tied"), load_target("jetson")
    settings = Prune(decode_speedup=1.3, quantization="Q8_0", candidates=1, recover=False,
                     calibration_tokens=512)  # fmt: skip
    text = Input.of_file(calibration(tmp_path / "text.txt"))
    config = stage.Config(text=text, target=target.model_dump(mode="json"), settings=settings)
    (tmp_path / "cut").mkdir()
    decode = stage.run(as_source(source), config, tmp_path / "cut").measurements["decode"]
    before, after = decode["expected_tokens_per_sec"]
    assert decode["target"] == target.name and after >= 1.3 * before
    assert all(speed > 0 for speed in decode["measured_tokens_per_sec"])


def test_an_aim_that_no_shape_meets(info: CheckpointInfo, slow: Target) -> None:
    with pytest.raises(UserError, match=r"expected to decode 15\.00x as fast on jetson") as caught:
        found(info, slow, decode_speedup=15)
    assert "tokens/s" in caught.value.mend
    with pytest.raises(UserError, match="as it is"):
        found(info, slow, decode_tokens_per_sec=1)


def test_a_speed_without_a_device(info: CheckpointInfo) -> None:
    with pytest.raises(UserError, match="of a device") as caught:
        found(info, None, decode_speedup=1.2)
    assert "--target" in caught.value.mend


def test_an_encoder_has_no_decode_speed(tmp_path: Path) -> None:
    encoder = inspect(tiny_encoder(tmp_path / "bert", "bert"))
    with pytest.raises(UserError, match="does not decode"):
        found(encoder, load_target("jetson"), decode_speedup=1.2)
