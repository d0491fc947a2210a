"""Reports: every fact in both languages, nothing lost, nothing that is not text."""

from __future__ import annotations

import string
from typing import Any

import pytest

from toolchain.report.markdown import figure, size
from toolchain.report.smoke import smoke_report
from toolchain.report.strings import _TEXTS, LANGUAGES, keys, text
from toolchain.report.write import report_name, write_report


def manifest(**changes: Any) -> dict[str, Any]:
    gate = {"name": "mean KLD", "figure": 0.0031, "limit": 0.05, "passed": True, "detail": ""}
    size_ = {"quantization": "Q4_K_M", "weights_bytes": 4_200_000_000}
    base = {
        "model": "demo",
        "quantization": "Q4_K_M",
        "target": {"name": "jetson", "title": "Orin", "title_zh": "英伟达", "gpu_layers": -1},
        "model_file": {
            "name": "model-Q4_K_M.gguf",
            "sha256": "ab" * 32,
            "size_bytes": 4_234_567_890,
            "bits_per_weight": 4.8512,
            "types": [{"intended": "Q4_K", "actual": "Q4_K", "tensors": 20}],
            "fallbacks": [],
        },
        "base": {"digest": "cd" * 32, "files": {"model.safetensors": "ef" * 32}},
        "plan": {
            "context_tokens": 4096,
            "kv_cache_type": "q8_0",
            "kv_cache_bytes": 300_000_000,
            "compute_bytes": 200_000_000,
            "usable_bytes": 5_900_000_000,
            "candidates": [{"size": size_, "decode_tokens_per_sec": 14.27}],
        },
        "tried": [
            {
                "quantization": "Q4_0",
                "verdict": "passed over",
                "reason": "mean KLD 0.2 exceeds the budget",
                "size_bytes": 10,
                "bits_per_weight": 4.5,
                "mean_kld": 0.2,
                "task_score": None,
            }
        ],
        "gates": [gate],
        "evaluation": {
            "name": "held-out.txt",
            "scored_tokens": 4096,
            "max_tokens": 4096,
            "context_tokens": 512,
            "seed": 0,
        },
        "ollama": {"refusal": None, "notes": []},
        "chain": [{"stage": "convert", "digest": "12" * 32}],
        "versions": {"llama-cpp-python": "0.3.36"},
        "licences": {"model": "apache-2.0"},
    }
    return {**base, **changes}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_fact_is_there(language: str) -> None:
    report = write_report(manifest(), language)
    for fact in (
        *("Q4_K_M", "4.235 GB", "4.851", "0.0031", "0.05", "4.7 GB", "14.27 tokens/s"),
        *("mean KLD 0.2 exceeds the budget", "held-out.txt", "ab" * 32, "cd" * 32, "convert 1212"),
        *("apache-2.0", "-c 4096", "-ngl all", "-ctk q8_0", "ollama create demo", "smoke_test.py"),
    ):
        assert fact in report, fact


def test_both_languages_have_the_same_structure() -> None:
    english, chinese = (write_report(manifest(), language) for language in LANGUAGES)
    shape = [
        [line.split(" ")[0] for line in report.splitlines() if line.startswith(("#", "|"))]
        for report in (english, chinese)
    ]
    assert shape[0] == shape[1]
    assert "英伟达" in chinese and "是否仍是同一个模型" in chinese
    assert [report_name(language) for language in LANGUAGES] == ["report.md", "report.zh-CN.md"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_cut_vocabulary_says_what_other_text_costs(language: str) -> None:
    cut = {
        "vocabulary": [2000, 1500],
        "parameters": [5_000_000, 4_000_000],
        "weight_bytes": [10_000_000, 8_000_000],
        "tokens": {"documents_equal": 37, "documents_changed": 0, "tokens_equal": 900},
        "held_out": {"tokens_before": 1000, "tokens_after": 1050, "share_gone": 0.04,
                     "unknown_before": 0, "unknown_after": 3},
        "notes": ["a <note>"],
    }  # fmt: skip
    report = write_report(manifest(vocabulary=[cut]), language)
    for fact in ("-25.0 %", "-20.0 %", "10 MB", "37", "4.00 %", "+5.00 %", "a &lt;note>"):
        assert fact in report, fact
    assert text("vocabulary_unknown", language, count=3) in report
    assert text("vocabulary_cut", language) not in write_report(manifest(), language)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("kept", "maker"), [("exact", "distill"), ("plain", "gptq")])
def test_own_blocks_say_what_they_gained_on_which_text(
    kept: str, maker: str, language: str
) -> None:
    row = {
        "name": "held|out",
        "kind": "near",
        "tokens": 4096,
        "plain_kld": 0.005,
        "exact_kld": 0.001,
        "kld_ratio": 0.2,
        "plain_top1_agreement": 0.96,
        "exact_top1_agreement": 0.98,
    }
    texts = [row, {**row, "kind": "far"}]
    facts = {"quantization": "Q4_0", "maker": maker, "kept": kept, "texts": texts}
    report = write_report(manifest(exact=facts), language)
    for fact in ("held\\|out", "4096", "0.005", "0.001", "0.2", "96.00 % → 98.00 %"):
        assert fact in report, fact
    made = text(f"exact_made_{maker}", language)
    assert text(f"exact_kept_{kept}", language, type="Q4_0", made=made) in report
    assert text("exact_far", language) in report
    assert text("exact", language) not in write_report(manifest(), language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_fresh_student_and_a_cache_are_told_of(language: str) -> None:
    student = {
        "teacher_parameters": 4_000_000,
        "student_parameters": 1_000_000,
        "teacher_shape": "8 layers",
        "shape": "4 <layers>",
        "kept_layers": [0, 2, 5, 7],
        "calibration_tokens": 16384,
    }
    cache = {"top_k": 32, "places": 55_262, "size_bytes": 7_405_108, "bytes_per_place": 134}
    report = write_report(manifest(students=[student], teacher_caches=[cache]), language)
    for fact in ("4000000", "1000000", "-75.0 %", "4 &lt;layers>", "0, 2, 5, 7", "16,384"):
        assert fact in report, fact
    for fact in ("32", "55,262", "7.405 MB", "134"):
        assert fact in report, fact
    assert text("students", language) not in write_report(manifest(), language)
    assert text("teacher_caches", language) not in write_report(manifest(), language)


def test_a_failed_gate_is_in_the_first_lines() -> None:
    gate = {"name": "mean KLD", "figure": 0.2, "limit": 0.05, "passed": False, "detail": ""}
    report = write_report(manifest(gates=[gate]))
    assert "Outside the budget: mean KLD" in report.split("##")[0]
    assert "**FAILED**" in report and "All gates passed" not in report


def test_fallbacks_are_loud_and_say_the_mend() -> None:
    facts = manifest()
    facts["model_file"]["types"] = [{"intended": "Q4_K", "actual": "Q5_0", "tensors": 36}]
    facts["model_file"]["fallbacks"] = [{"tensor": "t", "columns": 288}] * 36
    report = write_report(facts)
    assert "**Warning:** 36 tensors" in report and "288" in report and "multiples of 256" in report
    assert "No tensor fell back" in write_report(manifest())


def test_names_from_files_stay_text() -> None:
    report = write_report(manifest(model="<script>|x", licences={"model": "<b>a|b</b>"}))
    assert "<script>" not in report and "<b>" not in report
    assert "&lt;b>a\\|b&lt;/b>" in report


def test_a_refused_ollama_template_is_explained() -> None:
    report = write_report(
        manifest(ollama={"refusal": "no family renders the same", "notes": ["a note"]})
    )
    assert "0.30" in report and "no family renders the same" in report
    # Without a limit there is nothing to pass; without a licence one must ask.
    assert "unknown" in write_report(manifest(licences={"model": None}))


def test_all_texts_have_both_languages_with_the_same_values() -> None:
    for key in keys():
        fields = [{f for _, f, _, _ in string.Formatter().parse(t) if f} for t in _TEXTS[key]]
        assert fields[0] == fields[1], key
        assert all(_TEXTS[key]), key
        assert _TEXTS[key][0].count("|") == _TEXTS[key][1].count("|"), key


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0012345, "0.001234"), (3.0, "3"), (14420.4, "14420"), (7, "7"), ("x", "x")],
)
def test_figures(value: Any, shown: str) -> None:
    assert figure(value) == shown


def test_sizes() -> None:
    assert [size(n) for n in (None, 12, 4_234_567_890)] == ["–", "12 B", "4.235 GB"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_smoke_result_as_markdown(language: str) -> None:
    result = {
        "verdict": "failed",
        "checks": [
            {
                "name": "decode_tokens_per_sec",
                "value": 5.125,
                "limit": 8.0,
                "unit": "tokens/s",
                "status": "failed",
                "note": "48 tokens",
            },
            {
                "name": "task_score",
                "value": None,
                "limit": None,
                "unit": "share",
                "status": "not measured",
                "note": "",
            },
        ],
        "threads": {"best": 2, "profile": 4, "decode_tokens_per_sec": {"1": 3.0, "2": 5.1}},
        "machine": {
            "cpu": "A CPU",
            "usable_cores": 4,
            "load_per_core_before": 0.25,
            "copy_bandwidth_bytes_per_sec": 12.5e9,
            "speed_limit_scales": {"decode": 0.5, "prefill": 0.25},
        },
        "engine": {"name": "llama-cpp-python", "version": "0.3.36"},
    }
    report = smoke_report(result, language)
    for fact in (
        "5.125 tokens/s",
        "8 tokens/s",
        "48 tokens",
        "A CPU",
        "12.5 GB/s",
        "2: 5.1",
        "0.25",
    ):
        assert fact in report, fact
