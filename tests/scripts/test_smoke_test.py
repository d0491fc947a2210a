"""The smoke test on real bundles: what it proves and refuses, and that a bare device runs it."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_bundle import edit_first_prompt, edit_profile, make_bundle
from tiny_models import tiny_llama

from toolchain.export.smoke_script import smoke_script
from toolchain.trust.sums import write_sums

MODEL = "model-Q4_K_M.gguf"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    return make_bundle(tiny_llama(root / "tiny"), root / "out", task=True, proof=False)


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "bundle")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "smoke_test.py"
    path.write_text(smoke_script(), "utf-8")
    return path


@pytest.fixture(scope="module")
def smoke(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("smoke_test", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["smoke_test"] = module
    spec.loader.exec_module(module)
    return module


def run(bundle: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, checks by name, and everything printed."""
    result = bundle.parent / "result.json"
    options = ["--json", str(result), "--engine", "llama-cpp-python", *arguments]
    command = [sys.executable, str(bundle / "smoke_test.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    data = json.loads(result.read_text("utf-8")) if result.is_file() else {"checks": []}
    checks = {check["name"]: check for check in data["checks"]}
    return done.returncode, {**checks, "data": data}, done.stdout + done.stderr


def failed(checks: dict[str, Any]) -> list[str]:
    return [name for name, check in checks.items() if check.get("status") == "failed"]


def test_a_sound_bundle_passes_with_every_figure(bundle: Path) -> None:
    code, checks, printed = run(bundle)
    assert (code, failed(checks)) == (0, []), printed
    data = checks["data"]
    assert data["verdict"] == "passed" and len(data["answers"]) == 20
    for name in ("prefill_tokens_per_sec", "decode_tokens_per_sec", "ttft_sec", "peak_rss_bytes"):
        assert checks[name]["status"] == "passed" and checks[name]["value"] > 0
    tried = data["threads"]["decode_tokens_per_sec"]
    assert str(data["threads"]["best"]) in tried
    assert max(tried, key=lambda count: tried[count]) == str(data["threads"]["best"])
    assert checks["peak_rss_bytes"]["value"] > (bundle / MODEL).stat().st_size
    assert data["machine"]["copy_bandwidth_bytes_per_sec"] > 1e8
    assert "smoke test passed" in printed


def test_one_flipped_bit_in_the_model_is_refused_before_it_is_loaded(bundle: Path) -> None:
    path = bundle / MODEL
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, checks, _ = run(bundle)
    assert (code, failed(checks)) == (1, ["digests"])
    assert f"{MODEL} is damaged" in checks["digests"]["note"]
    others = {c["status"] for name, c in checks.items() if name not in ("digests", "data")}
    assert others == {"not measured"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda b: (b / "prompts.jsonl").unlink(), "prompts.jsonl is missing"),
        (lambda b: (b / "other.gguf").write_bytes(b"GGUF"), "other.gguf is not covered"),
        (
            lambda b: (b / "tokenizer" / "x.json").write_text("{}"),
            "tokenizer/x.json is not covered",
        ),
        (lambda b: (b / "profile.json").write_text("{"), "profile.json is damaged"),
        (
            lambda b: (b / "copy").symlink_to(b / MODEL),
            "copy is not covered",
        ),
    ],
)
def test_files_that_are_missing_added_or_changed_are_named(
    bundle: Path, change: Any, fault: str
) -> None:
    change(bundle)
    code, checks, _ = run(bundle)
    assert code == 1 and fault in checks["digests"]["note"]


def test_log_is_not_covered_by_the_sums(bundle: Path) -> None:
    (bundle / "log").mkdir()
    (bundle / "log" / "smoke.json").write_text("{}")
    assert run(bundle, "--quick")[0] == 0


def test_another_answer_than_recorded_fails_with_the_share_that_agrees(bundle: Path) -> None:
    rows = [json.loads(line) for line in (bundle / "prompts.jsonl").read_text("utf-8").splitlines()]
    ids = rows[0]["expected_token_ids"]
    half = len(ids) // 2
    wrong = [*ids[:half], ids[half] + 1, *ids[half + 1 :]]
    edit_first_prompt(bundle, expected_token_ids=wrong, expected="another answer")
    code, checks, _ = run(bundle, "--quick")
    assert (code, failed(checks)) == (1, ["equal_answers", "agreeing_prefix"])
    assert checks["equal_answers"]["value"] == pytest.approx(19 / 20)
    assert checks["agreeing_prefix"]["value"] == pytest.approx((19 + half / len(ids)) / 20)
    assert f"{rows[0]['id']} agrees over {half / len(ids):.0%}" in checks["equal_answers"]["note"]


def test_recorded_elsewhere_the_profile_says_how_many_answers_must_be_equal(bundle: Path) -> None:
    edit_first_prompt(bundle, expected="another answer")
    edit_profile(bundle, recorded={"features": "NEON"}, thresholds={"min_answers_equal": 0.95})
    code, checks, _ = run(bundle, "--quick")
    assert code == 0 and checks["equal_answers"]["value"] == pytest.approx(0.95)
    edit_profile(bundle, thresholds={"min_answers_equal": 0.96})
    assert failed(run(bundle, "--quick")[1]) == ["equal_answers"]


def test_other_prompt_tokens_fail(bundle: Path) -> None:
    edit_first_prompt(bundle, token_ids=[1, 2, 3])
    assert failed(run(bundle, "--quick")[1]) == ["prompt_token_ids"]


def test_an_answer_that_does_not_stop_any_more_fails(bundle: Path) -> None:
    edit_first_prompt(bundle, stopped=True)
    code, checks, _ = run(bundle, "--quick")
    assert (code, failed(checks)) == (1, ["stop_token"])
    assert "task-01 did not stop" in checks["stop_token"]["note"]


def test_a_stop_text_inside_an_answer_fails(bundle: Path) -> None:
    row = json.loads((bundle / "prompts.jsonl").read_text("utf-8").splitlines()[0])
    edit_profile(bundle, stop_texts=[row["expected"][:8]])
    assert failed(run(bundle, "--quick")[1]) == ["stop_token"]


def test_a_stop_text_that_is_a_token_ends_the_answer(made: Path, smoke: ModuleType) -> None:
    def answer(stop_texts: list[str]) -> Any:
        engine = smoke.LlamaCpp()
        engine.load(made / MODEL, {"stop_texts": stop_texts}, 256, 1)
        try:
            return engine.answer("<|im_start|>user\nhi", False, 24)
        finally:
            engine.close()

    endless = answer([])
    assert len(endless.token_ids) == 24 and not endless.stopped
    stop = next(character for character in endless.text if character.isascii())
    ended = answer([stop])
    assert ended.stopped and stop not in ended.text
    assert ended.token_ids == endless.token_ids[: len(ended.token_ids)]


def test_the_task_score_must_stay_what_it_was(bundle: Path) -> None:
    row = json.loads((bundle / "prompts.jsonl").read_text("utf-8").splitlines()[0])
    edit_first_prompt(bundle, reference=row["expected"])
    _, checks, _ = run(bundle, "--quick")
    assert checks["task_score"]["value"] == pytest.approx(1 / 20)
    edit_first_prompt(bundle, reference="right", expected="right")
    assert "task_score" in failed(run(bundle, "--quick")[1])


@pytest.mark.parametrize(
    ("threshold", "value", "check"),
    [
        ("min_decode_tokens_per_sec", 1e9, "decode_tokens_per_sec"),
        ("min_prefill_tokens_per_sec", 1e9, "prefill_tokens_per_sec"),
        ("max_ttft_sec", 1e-9, "ttft_sec"),
        ("max_peak_rss_bytes", 1 << 20, "peak_rss_bytes"),
    ],
)
def test_figures_beyond_their_limits_fail(
    bundle: Path, threshold: str, value: float, check: str
) -> None:
    edit_profile(bundle, thresholds={threshold: value})
    code, checks, _ = run(bundle, "--quick")
    assert (code, failed(checks)) == (1, [check])


def test_speed_limits_are_scaled_to_this_machine(smoke: ModuleType) -> None:
    target = {"memory_bandwidth_bytes_per_sec": 100e9, "cores": smoke.usable_cores() * 4}
    assert smoke.speed_scales(target, 25e9) == {"decode": 0.25, "prefill": 0.25}
    assert smoke.speed_scales(target, 50e9) == {"decode": 0.5, "prefill": 0.25}
    assert smoke.speed_scales({**target, "cores": 1}, 400e9) == {"decode": 1.0, "prefill": 1.0}


def test_answers_do_not_depend_on_the_number_of_threads(made: Path, smoke: ModuleType) -> None:
    # Longer than 512 tokens: from there on llama.cpp's flash attention splits the cache by thread.
    engine = smoke.LlamaCpp()
    engine.load(made / MODEL, {"kv_cache_type": "f16"}, 1024, 1)
    try:
        answers = {}
        for threads in (1, 2, 3):
            engine.set_threads(threads)
            answers[threads] = engine.answer("<|im_start|>user\nhi", False, 800).token_ids
    finally:
        engine.close()
    assert len(answers[1]) > 600
    assert answers[1] == answers[2] == answers[3]


def test_no_bundle_and_no_engine_cannot_run(script: Path, bundle: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(script), "--bundle", str(tmp_path / "absent")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "is no bundle" in done.stderr
    # -S: without site-packages there is no llama_cpp.
    done = subprocess.run(
        [sys.executable, "-S", str(bundle / "smoke_test.py"), "--engine", "llama-cpp-python"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "pip install llama-cpp-python==" in done.stderr and "Traceback" not in done.stderr


def test_sums_that_lead_outside_the_bundle_are_refused(bundle: Path) -> None:
    (bundle / "SHA256SUMS").write_text(f"{'0' * 64}  ../secret\n")
    code, _, printed = run(bundle)
    assert code == 2 and "bad line" in printed


def test_a_model_that_the_engine_refuses_cannot_run(bundle: Path) -> None:
    data = (bundle / MODEL).read_bytes()
    (bundle / MODEL).write_bytes(data[: len(data) // 2])
    write_sums(bundle)
    code, _, printed = run(bundle)
    assert code == 2 and "cannot load" in printed and "Traceback" not in printed


def test_the_agreeing_prefix(smoke: ModuleType) -> None:
    assert smoke.agreeing_prefix([], []) == 1.0
    assert smoke.agreeing_prefix([1, 2, 3, 4], [1, 2, 9, 4]) == 0.5
    assert smoke.agreeing_prefix([1], [1, 2]) == 0.5
    assert smoke.agreeing_prefix([], [1]) == 0.0


def test_true_answers_are_compared_by_value(smoke: ModuleType) -> None:
    assert smoke.same_value('{"a": 1, "b": 2}', '{"b":2,"a":1}\n')
    assert not smoke.same_value('{"a": 1}', '{"a": 2}')
    assert smoke.same_value("yes", " yes") and not smoke.same_value("yes", "no")


def test_every_core_count_is_tried_on_small_machines(smoke: ModuleType) -> None:
    assert smoke.thread_counts(6, 6) == [1, 2, 3, 4, 5, 6]
    assert smoke.thread_counts(24, 12) == [1, 2, 4, 8, 12, 16, 24]


def test_it_is_python_3_8_of_the_standard_library() -> None:
    source = smoke_script()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    engines = {"llama_cpp", "numpy", "onnxruntime", "tokenizers"}
    assert imported - set(sys.stdlib_module_names) == engines
    # Methods that 3.8 lacks; annotations are never evaluated there.
    for name in ("removeprefix", "removesuffix", "is_relative_to", "functools.cache", "strict="):
        assert name not in source


def test_a_jetson_s_power_temperature_and_unified_memory(bundle: Path, tmp_path: Path) -> None:
    ina, thermal = "sys/class/hwmon/hwmon3/", "sys/class/thermal/thermal_zone0/"
    files = {
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0003\0nvidia,tegra234\0",
        "proc/meminfo": "MemTotal:        7802744 kB\nMemAvailable:    5000000 kB\n",
        f"{ina}name": "ina3221\n",
        f"{ina}in1_label": "VDD_IN\n",
        f"{ina}in1_input": "5000\n",
        f"{ina}curr1_input": "2000\n",
        f"{thermal}type": "tj-thermal\n",
        f"{thermal}temp": "48812\n",
    }
    for name, text in files.items():
        path = tmp_path / "device" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    code, checks, printed = run(bundle, "--quick", "--root", str(tmp_path / "device"))
    assert code == 0, printed
    assert checks["power_watts"]["value"] == pytest.approx(10, rel=0.1)
    decode = checks["data"]["speed"]["decode_tokens_per_sec"]["best"]
    assert checks["joules_per_token"]["value"] >= 0.5 * 10 / decode
    assert checks["power_watts"]["note"].startswith("INA3221 VDD_IN")
    assert checks["temperature_celsius"]["value"] == 48.812
    assert checks["gpu_memory_bytes"]["value"] == 0
    assert checks["gpu_memory_bytes"]["note"].startswith("unified memory")


def test_what_cannot_be_read_says_why(bundle: Path, tmp_path: Path) -> None:
    _, checks, _ = run(bundle, "--quick", "--root", str(tmp_path / "bare"))
    for name in ("power_watts", "joules_per_token", "temperature_celsius"):
        assert checks[name]["status"] == "not measured"
        assert checks[name]["note"].startswith("not readable here: ")


def test_memory_of_a_graphics_card_is_read_from_nvidia_smi(smoke: ModuleType) -> None:
    assert smoke.gpu_bytes_of(42, "7, 100\n42, 512\n42, 16\n") == 528 << 20
    assert smoke.gpu_bytes_of(42, "7, 100\n") is None
    assert smoke.gpu_bytes_of(42, "42, [N/A]\n") is None
    assert smoke.sum_mib("310\n20\n") == 330 << 20
    assert smoke.sum_mib("NVIDIA-SMI has failed\n") is None
