"""Predicted types and sizes against files that the quantizer really wrote."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tiny_gguf import llama_metadata, llama_shapes, tiny_gguf

from common.errors import UserError
from runtimes.gguf_file import read_tensor_types
from runtimes.predict import predict_many, predict_types
from runtimes.quantizer import quantize

NAMES = ("Q4_0", "Q4_K_M", "Q5_K_M", "Q8_0", "Q6_K", "Q3_K_M", "IQ4_XS")
# (hidden, ffn, layers, heads, kv_heads, tied): fitting widths; 288 and 172 fit no K-quant;
# grouped heads of 4 and more layers change the mix.
SHAPES = {
    "fits": (256, 512, 4, 4, 2, False),
    "tied-gqa": (256, 768, 8, 8, 1, True),
    "288": (288, 172, 3, 4, 4, True),
    "172": (172, 288, 2, 2, 2, False),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_prediction_equals_the_real_file(shape: str, tmp_path: Path) -> None:
    hidden, ffn, layers, heads, kv_heads, tied = SHAPES[shape]
    source = tiny_gguf(
        tmp_path / "f32.gguf",
        hidden=hidden,
        ffn=ffn,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        tied=tied,
    )
    predicted = predict_many(
        "llama",
        llama_metadata(hidden, ffn, layers, heads, kv_heads),
        llama_shapes(hidden, ffn, layers, heads, kv_heads, 64, tied=tied),
        NAMES,
    )
    for name in NAMES:
        quantize(source, tmp_path / "q.gguf", name)
        real = {
            t.name: (t.shape, t.type, t.size_bytes) for t in read_tensor_types(tmp_path / "q.gguf")
        }
        assert {t.name: (t.shape, t.actual, t.size_bytes) for t in predicted[name]} == real, name


def test_intended_is_the_mix_of_fitting_widths() -> None:
    def intended(hidden: int, ffn: int) -> dict[str, tuple[str, bool]]:
        tensors = predict_types(
            "llama",
            llama_metadata(hidden, ffn, 8, 4, 2),
            llama_shapes(hidden, ffn, 8, 4, 2, 64, tied=True),
            "Q4_K_M",
        )
        return {tensor.name: (tensor.intended, tensor.fell_back) for tensor in tensors}

    fits, awkward = intended(256, 512), intended(288, 172)
    assert {n: t for n, (t, _) in fits.items()} == {n: t for n, (t, _) in awkward.items()}
    assert not any(fell for _, fell in fits.values())
    fallen = {name for name, (_, fell) in awkward.items() if fell}
    assert fallen == {name for name in awkward if "norm" not in name}


def test_imatrix_turns_early_ffn_down_of_q4_0_into_q4_1() -> None:
    arguments = ("llama", llama_metadata(256, 256, 8, 4, 2))
    shapes = llama_shapes(256, 256, 8, 4, 2, 64, tied=True)
    plain = predict_types(*arguments, shapes, "Q4_0")
    weighed = predict_types(*arguments, shapes, "Q4_0", with_imatrix=True)
    different = {b.name: b for a, b in zip(plain, weighed, strict=True) if a != b}
    assert set(different) == {"blk.0.ffn_down.weight"}
    tensor = different["blk.0.ffn_down.weight"]
    assert (tensor.actual, tensor.fell_back) == ("Q4_1", False)


def test_overrides_and_pure_are_predicted_too() -> None:
    arguments = ("llama", llama_metadata(256, 256, 2, 4, 2))
    shapes = llama_shapes(256, 256, 2, 4, 2, 64, tied=True)
    chosen = predict_types(*arguments, shapes, "q4_k", tensor_types={"ffn_up": "Q8_0"})
    assert {t.actual for t in chosen if "ffn_up" in t.name} == {"Q8_0"}
    pure = predict_types(*arguments, shapes, "Q4_K_M", pure=True)
    assert {t.actual for t in pure if len(t.shape) == 2} == {"Q4_K"}


def test_an_8b_model_is_predicted_without_its_weights_room() -> None:
    hidden, ffn, layers, heads, kv_heads = 4096, 14336, 32, 32, 8
    start = time.perf_counter()
    tensors = predict_types(
        "llama",
        llama_metadata(hidden, ffn, layers, heads, kv_heads),
        llama_shapes(hidden, ffn, layers, heads, kv_heads, 128256, tied=False),
        "Q4_K_M",
    )
    # Llama-3-8B's Q4_K_M is 4.58 GiB by llama.cpp's own table (tools/quantize).
    assert sum(t.size_bytes for t in tensors) / 2**30 == pytest.approx(4.58, abs=0.01)
    assert time.perf_counter() - start < 60


def test_an_architecture_that_wants_more_keys_is_predicted_all_the_same() -> None:
    shapes = llama_shapes(256, 256, 2, 4, 2, 64, tied=True)
    metadata = llama_metadata(256, 256, 2, 4, 2)
    assert predict_types("mamba", metadata, shapes, "Q4_0") == predict_types(
        "llama", metadata, shapes, "Q4_0"
    )


def test_unknown_type_is_a_user_error() -> None:
    with pytest.raises(UserError, match="unknown quantization 'Q4_X'"):
        predict_types("llama", {}, [], "Q4_X")
