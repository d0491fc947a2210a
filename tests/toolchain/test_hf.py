"""Torch in little memory gives the results of torch in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_llama

from toolchain import hf
from toolchain.checkpoint.inspect import inspect


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_widened_weights_compute_as_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    checkpoint = tiny_llama(tmp_path / "tiny", hidden=64, ffn=96, dtype=dtype)
    tokens = torch.tensor([[5, 17, 42, 99, 3, 200]])
    with hf.torch_model(checkpoint) as model:
        assert next(model.parameters()).dtype == torch.float32
        expected = model(tokens).logits
    wide, stored = hf.torch_memory_bytes(inspect(checkpoint))
    assert stored < wide
    monkeypatch.setattr(hf, "free_memory_bytes", lambda: (wide + stored) // 2)
    with hf.torch_model(checkpoint) as model:
        assert next(model.parameters()).dtype == getattr(torch, dtype)
        actual = model(tokens).logits
        assert next(model.parameters()).dtype == getattr(torch, dtype)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)
