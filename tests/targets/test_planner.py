"""The planner's arithmetic, against figures that llama.cpp reports and against hand calculation."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from targets.planner import (
    ModelShape,
    TypeSize,
    compute_bytes,
    kv_cache_bytes,
    plan,
    usable_kv_cache_type,
)
from targets.registry import load_target

MIB = 1 << 20
LLAMA_3_8B = ModelShape(
    name="llama-3-8b",
    architecture="LlamaForCausalLM",
    parameters=8_030_261_248,
    layers=32,
    heads=32,
    kv_heads=8,
    key_dim=128,
    value_dim=128,
    hidden=4096,
    ffn=14336,
    vocab=128256,
    context_tokens=8192,
)
Q4_K_M = TypeSize("Q4_K_M", 4_912_898_304, 4_617_394_176, 4.89, 291)
Q8_0 = TypeSize("Q8_0", 8_532_934_656, 7_974_125_568, 8.5, 291)


def _shape(
    hidden: int, ffn: int, vocab: int, layers: int, heads: int, kv_heads: int, dim: int
) -> ModelShape:
    return ModelShape("m", "L", 1, layers, heads, kv_heads, dim, dim, hidden, ffn, vocab, None)


STORIES = _shape(64, 172, 512, 5, 8, 4, 8)
WIDE_VOCAB = _shape(512, 1536, 32000, 2, 8, 2, 64)
WIDE_FFN = _shape(256, 2048, 1024, 4, 4, 2, 64)
WIDE_HIDDEN = _shape(1024, 2048, 2048, 2, 8, 4, 128)


def test_kv_cache_of_llama_3_8b_is_the_known_gibibyte() -> None:
    assert kv_cache_bytes(LLAMA_3_8B, 8192, "f16") == 1 << 30
    assert kv_cache_bytes(LLAMA_3_8B, 8192, "q8_0") == (1 << 30) * 34 // 64
    assert kv_cache_bytes(LLAMA_3_8B, 8192, "q4_0") == (1 << 30) * 18 // 64


@pytest.mark.parametrize(
    ("shape", "context_tokens", "kv_type", "reported_mib"),
    [
        (STORIES, 2048, "f16", 1.25),
        (STORIES, 512, "f16", 0.3125),
        (WIDE_VOCAB, 4096, "q8_0", 2.125),
        (WIDE_FFN, 4096, "q8_0", 4.25),
    ],
)
def test_kv_cache_equals_what_llama_cpp_reports(
    shape: ModelShape, context_tokens: int, kv_type: str, reported_mib: float
) -> None:
    assert kv_cache_bytes(shape, context_tokens, kv_type) == reported_mib * MIB


@pytest.mark.parametrize(
    ("shape", "context_tokens", "flash_attention", "reported_mib"),
    [
        (STORIES, 512, False, 9.76),
        (STORIES, 2048, False, 36.76),
        (STORIES, 2048, True, 3.5215),
        (WIDE_VOCAB, 512, False, 64.50),
        (WIDE_VOCAB, 2048, False, 65.50),
        (WIDE_VOCAB, 2048, True, 64.50),
        (WIDE_VOCAB, 4096, True, 65.50),
        (WIDE_FFN, 512, False, 15.01),
        (WIDE_FFN, 2048, False, 23.01),
        (WIDE_FFN, 2048, True, 16.01),
        (WIDE_FFN, 4096, True, 17.54),
        (WIDE_HIDDEN, 512, False, 21.01),
        (WIDE_HIDDEN, 2048, False, 48.01),
        (WIDE_HIDDEN, 2048, True, 18.01),
        (WIDE_HIDDEN, 4096, True, 22.09),
    ],
)
def test_compute_buffer_is_near_what_llama_cpp_reports(
    shape: ModelShape, context_tokens: int, flash_attention: bool, reported_mib: float
) -> None:
    estimate = compute_bytes(shape, context_tokens, flash_attention=flash_attention) / MIB
    assert 0.99 * reported_mib <= estimate <= 1.25 * reported_mib


def test_kv_heads_may_differ_by_layer() -> None:
    uneven = replace(LLAMA_3_8B, layers=4, kv_heads=(4, 2, 0, 2))
    even = replace(LLAMA_3_8B, layers=4, kv_heads=2)
    assert kv_cache_bytes(uneven, 1024, "f16") == kv_cache_bytes(even, 1024, "f16")


def test_a_quantized_kv_cache_needs_whole_blocks() -> None:
    assert usable_kv_cache_type("q8_0", 8, 8) == "f16"
    assert usable_kv_cache_type("q8_0", 128, 128) == "q8_0"
    found = plan(STORIES, load_target("jetson"), [])
    assert found.kv_cache_type == "f16"


def test_an_8b_model_on_an_8_gb_jetson_fits_in_4_bits_only() -> None:
    found = plan(LLAMA_3_8B, load_target("jetson"), [Q4_K_M, Q8_0])
    assert found.order == ("Q4_K_M",)
    refused = found.candidates[1]
    assert not refused.fits
    assert "of memory, 5.5 usable" in refused.reason


def test_decode_speed_of_an_8b_model_is_of_the_published_order() -> None:
    """Llama-3-8B Q4: about 2 tok/s on a Pi 5, 11 to 15 on an Orin Nano Super."""
    pi = plan(LLAMA_3_8B, load_target("raspberry-pi-5"), [Q4_K_M]).candidates[0]
    nano = plan(LLAMA_3_8B, load_target("jetson"), [Q4_K_M]).candidates[0]
    assert 1.5 < pi.decode_tokens_per_sec < 3
    assert 9 < nano.decode_tokens_per_sec < 16


def test_separate_memory_is_checked_on_its_own() -> None:
    server = load_target("gpu-server")
    large = TypeSize("Q8_0", 24 << 30, 24 << 30, 8.5, 291)
    found = plan(LLAMA_3_8B, server, [large, Q8_0])
    assert found.order == ("Q8_0",)
    assert "on the accelerator, 21.5 usable" in found.candidates[0].reason
    assert found.candidates[1].accelerator_bytes == found.candidates[1].total_bytes


def test_layers_left_on_the_cpu_slow_decoding_down() -> None:
    server = load_target("gpu-server")
    half = server.model_copy(update={"gpu_layers": 16})
    all_layers = plan(LLAMA_3_8B, server, [Q8_0]).candidates[0]
    some_layers = plan(LLAMA_3_8B, half, [Q8_0]).candidates[0]
    assert some_layers.decode_tokens_per_sec < all_layers.decode_tokens_per_sec
    assert some_layers.accelerator_bytes < all_layers.accelerator_bytes


def test_the_order_is_the_targets_order() -> None:
    found = plan(LLAMA_3_8B, load_target("cpu-server"), [Q8_0, Q4_K_M])
    assert found.order == ("Q8_0", "Q4_K_M")


def test_context_is_cut_to_what_the_model_was_trained_for() -> None:
    short = replace(LLAMA_3_8B, context_tokens=1000)
    found = plan(short, load_target("laptop"), [Q4_K_M])
    assert found.context_tokens == 1000
    assert found.kv_cache_bytes == (1 << 30) // 8


def test_planner_imports_nothing_heavy_and_no_toolchain() -> None:
    code = (
        "import sys, targets.planner;"
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('toolchain','runtimes','torch','numpy','pydantic','yaml','gguf')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
