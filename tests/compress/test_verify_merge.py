"""The proof must fail for a merged model that is not base plus adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_adapters import merged, trained_adapter

from common.errors import UserError
from toolchain.compress.verify_merge import verify_in_child, verify_merge


def scale(folder: Path, tensor: str, factor: float) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[tensor] *= factor
    save_file(tensors, path, {"format": "pt"})


def test_a_right_merge_passes_and_a_wrong_one_fails(base: Path, tmp_path: Path) -> None:
    trained_adapter(base, tmp_path / "adapter")
    out = merged(base, tmp_path / "adapter", tmp_path / "out").path
    right = verify_merge(base, tmp_path / "adapter", out)
    assert right["status"] == "passed"
    assert 0 <= right["max_abs_diff"] < 1e-5
    scale(out, "model.layers.1.self_attn.o_proj.weight", 1.05)
    wrong = verify_merge(base, tmp_path / "adapter", out)
    assert wrong["status"] == "failed"
    assert wrong["max_abs_diff"] > wrong["limit"]


def test_the_base_alone_does_not_pass_for_the_merge(base: Path, tmp_path: Path) -> None:
    trained_adapter(base, tmp_path / "adapter", use_dora=True)
    with pytest.raises(UserError, match="differs from base plus adapter"):
        verify_in_child(base, tmp_path / "adapter", base)


def test_wrong_rounding_fails(base: Path, tmp_path: Path) -> None:
    """A stored value that is off by one in the last of bfloat16's bits hides below the logits."""
    trained_adapter(base, tmp_path / "adapter")
    out = merged(base, tmp_path / "adapter", tmp_path / "out", dtype="bfloat16").path
    assert verify_merge(base, tmp_path / "adapter", out)["status"] == "passed"
    path = out / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    wrong = verify_merge(base, tmp_path / "adapter", out)
    assert wrong["status"] == "failed"
    assert "rounding" in wrong["reason"]


def test_a_model_that_does_not_load_is_no_proof(base: Path, tmp_path: Path) -> None:
    trained_adapter(base, tmp_path / "adapter")
    with pytest.raises(UserError, match="could not be compared"):
        verify_in_child(base, tmp_path / "adapter", tmp_path)
