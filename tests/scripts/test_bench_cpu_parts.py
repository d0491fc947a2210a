"""The benchmark's arithmetic and words: statistics against numpy, ratios, verdict, files, page."""

from __future__ import annotations

import csv
import html.parser
import json
import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark import decoders, encoders
from benchmark.files import csv_text, json_lines, require_writable, write_files
from benchmark.fleet import Fleet, thread_counts, turns
from benchmark.machine import NOT_READABLE, highest_bandwidths, load_summary
from benchmark.page import page
from benchmark.page_strings import STRINGS
from benchmark.quality import manifest_quality
from benchmark.records import FP32, INT8, EngineResult, EngineSpec, Measurement, Result
from benchmark.settings import Settings
from benchmark.statistics import geometric_mean, latencies, paired_ratios, percentile, spread
from benchmark.table import table
from benchmark.verdict import decoder_ratios, encoder_ratios, judge, quality_faults

from common.errors import UserError
from runtimes.cores import Load
from runtimes.timed import TimedOptions
from toolchain.report.plots import Bar, Line, bars, lines, nice, number

EVIL = "<script>alert('x')</script> & \"co\""


def request_rows(engine: str, secs: list[float], prefill: float = 100.0) -> list[Measurement]:
    rows = []
    for round_, sec in enumerate(secs):
        for metric, value in {
            "request_sec": sec,
            "prefill_tokens_per_sec": prefill,
            "decode_tokens_per_sec": 1 / sec,
            "ttft_sec": sec / 2,
        }.items():
            rows.append(Measurement("request", engine, metric, value, round=round_, threads=1))
        at = {"round": round_, "threads": 1, "clients": 2}
        rows.append(Measurement("serve", engine, "requests_per_sec", 2 / sec, **at))  # type: ignore[arg-type]
    return rows


def decoder_figures(secs: list[float]) -> dict[str, Any]:
    speed = spread([1 / sec for sec in secs]).as_json()
    return {
        "ttft_sec": spread(secs).as_json(),
        "prefill_tokens_per_sec": speed,
        "decode_tokens_per_sec": speed,
        "request_latency": latencies(secs),
        "token_latency": latencies(secs),
        "clients": {"2": {"requests_per_sec": speed, **latencies(secs)}},
        "peak_rss_bytes": 50_000_000,
        "peak_rss_serving_bytes": 60_000_000,
        "bandwidth_share": 0.5,
    }


def machine(**more: Any) -> dict[str, Any]:
    return {
        "cpu_model": "Test CPU",
        "arch": "x86_64",
        "os": "Linux",
        "physical_cores": 2,
        "logical_cores": 2,
        "free_cores": [0, 1],
        "instructions": {"avx2": True, "amx_int8": False},
        "memory_total_bytes": 8_000_000_000,
        "memory_available_bytes": 6_000_000_000,
        "load_1min_before": 0.1,
        "load_1min_after": 0.2,
        "foreign_cores_median": 0.1,
        "foreign_cores_max": 0.3,
        "busy": False,
        "read_bandwidth_bytes_per_sec": {"1": 10e9, "2": 20e9},
        "energy": NOT_READABLE,
        "python": "3.11",
        "versions": {"torch": "2"},
        **more,
    }


def decoder_result(slow: list[float], fast: list[float], **more: Any) -> Result:
    measurements = request_rows(FP32, slow) + request_rows(INT8, fast)
    engines = [
        EngineResult(FP32, "onnxruntime", 400, 1, (0,), {}, decoder_figures(slow)),
        EngineResult(INT8, "onnxruntime", 100, 1, (0,), {}, decoder_figures(fast)),
    ]
    ratios = decoder_ratios(measurements, engines)
    settings = Settings()
    result = Result(
        "a-model", "decoder", settings.as_json(), machine(), engines, measurements, ratios
    )
    for name, value in more.items():
        setattr(result, name, value)
    faults, notes = judge("decoder", ratios, result.quality, settings)
    result.faults, result.notes = faults, [*result.notes, *notes]
    return result


def encoder_result() -> Result:
    rows, figures = [], {}
    for engine, sec in ((FP32, 0.2), (INT8, 0.1)):
        cells = {}
        for batch, sequence in ((1, 16), (8, 128)):
            secs = [sec * batch, sec * batch * 1.1]
            for round_, value in enumerate(secs):
                at = {"round": round_, "batch": batch, "sequence": sequence}
                rows.append(Measurement("encode", engine, "batch_sec", value, **at))  # type: ignore[arg-type]
            cells[f"{batch}x{sequence}"] = {
                "batch": batch,
                "sequence": sequence,
                **latencies(secs),
                "sequences_per_sec": spread([batch / s for s in secs]).as_json(),
            }
        figures[engine] = {"cells": cells, "peak_rss_bytes": 1_000_000}
    engines = [
        EngineResult(name, "onnxruntime", 10, 1, (0,), {}, figures[name]) for name in (FP32, INT8)
    ]
    ratios = encoder_ratios(rows, engines)
    quality = {
        "source": "4 texts",
        "engines": {INT8: {"accuracy": 0.9, "accuracy_loss": 0.0, "agreement": 1.0}},
    }
    return Result(
        "an-encoder", "encoder", Settings().as_json(), machine(), engines, rows, ratios, quality
    )


@pytest.mark.parametrize("count", [1, 2, 3, 10, 57])
def test_statistics_are_numpy_s(count: int) -> None:
    chosen = random.Random(count)
    values = [chosen.lognormvariate(0, 1) for _ in range(count)]
    for percent in (0, 25, 50, 95, 99, 100):
        assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))
    found = spread(values)
    assert found.median == pytest.approx(np.median(values))
    assert (found.minimum, found.maximum, found.count) == (min(values), max(values), count)
    assert latencies(values)["p95_sec"] == pytest.approx(np.percentile(values, 95))
    expected = np.exp(np.log(values).mean())
    assert geometric_mean(values) == pytest.approx(expected)


def test_no_values_have_no_statistics() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_ratios_are_taken_round_by_round() -> None:
    # In round 1 the machine was ten times as slow for both: the ratio stays.
    assert paired_ratios({0: 2.0, 1: 20.0, 5: 1.0}, {0: 1.0, 1: 10.0}) == [2.0, 2.0]


def test_medians_of_ratios_stand_when_times_do_not() -> None:
    result = decoder_result([1.0, 10.0, 1.0], [0.5, 5.0, 0.5])
    rows = result.ratios["engines"][INT8]
    assert rows["request"]["median"] == pytest.approx(2.0)
    assert rows["clients"]["2"]["median"] == pytest.approx(2.0)
    assert rows["size"] == pytest.approx(0.25)
    assert result.passed


def test_a_slower_int8_file_fails_and_says_by_how_much() -> None:
    result = decoder_result([1.0, 1.0, 1.0], [1.25, 1.25, 1.0])
    assert not result.passed
    (fault,) = result.faults
    assert fault.what == "speed" and fault.figure == pytest.approx(0.8)
    assert "onnx-int8 is slower than onnx-fp32: 0.80x" in fault.text
    assert "FAIL  onnx-int8 is slower" in table(result)


def test_a_part_that_is_slower_is_a_note() -> None:
    rows = request_rows(FP32, [1.0, 1.0]) + request_rows(INT8, [0.5, 0.5], prefill=50.0)
    engines = [EngineResult(name, "", 1, 1, ()) for name in (FP32, INT8)]
    faults, notes = judge("decoder", decoder_ratios(rows, engines), None, Settings())
    assert not faults
    assert notes[0] == "onnx-int8 is slower than onnx-fp32 in parts of the mix: prefill 0.50x"


@pytest.mark.parametrize(
    ("figures", "what"),
    [
        ({"kld_mean": 0.5}, "kld_mean"),
        ({"accuracy_loss": 0.02}, "accuracy_loss"),
        ({"cosine_mean": 0.5}, "cosine_mean"),
    ],
)
def test_a_missed_quality_gate_fails(figures: dict[str, float], what: str) -> None:
    quality = {"source": "", "engines": {INT8: figures}}
    result = decoder_result([1.0], [0.5], quality=quality)
    assert [fault.what for fault in result.faults] == [what]
    assert "misses the quality gate" in result.faults[0].text and not result.passed


def test_a_bundle_s_own_limit_goes_first() -> None:
    gates = [
        {"name": "mean KLD", "figure": 0.04, "limit": 0.05, "passed": True},
        {"name": "top-1 agreement", "figure": 0.9, "limit": None, "passed": None},
    ]
    quality = manifest_quality({"gates": gates})
    assert quality is not None
    assert quality["engines"][INT8] == {"kld_mean": 0.04, "top1_agreement": 0.9}
    assert quality_faults(quality, Settings()) == []
    assert quality_faults({**quality, "limits": {}}, Settings())
    assert manifest_quality({"gates": []}) is None and manifest_quality(None) is None


def test_a_labelled_bundle_is_held_to_its_accuracy_alone() -> None:
    from toolchain.export.onnx.encoder_check import _gates
    from toolchain.export.onnx.encoder_quality import Budget, Measured

    figures = {"accuracy": 0.8, "reference_accuracy": 0.803, "agreement": 0.97, "kld": 0.001}
    gates = [gate.as_json() for gate in _gates(Measured(figures, ()), Budget())]
    quality = manifest_quality({"gates": gates})
    assert quality is not None and quality["limits"] == {"accuracy_loss": 0.005}
    assert quality_faults(quality, Settings()) == []


def test_quality_without_a_gated_figure_is_no_pass() -> None:
    assert quality_faults({"engines": {INT8: {"top1_agreement": 1.0}}}, Settings()) is None
    agreeing = {"engines": {INT8: {"agreement": 0.5}}}
    assert [fault.what for fault in quality_faults(agreeing, Settings()) or []] == ["agreement"]
    labelled = {"engines": {INT8: {"agreement": 0.5, "accuracy_loss": 0.0}}}
    assert quality_faults(labelled, Settings()) == []
    result = decoder_result([1.0], [0.5])
    assert any(note.startswith("no quality gate") for note in result.notes)


def test_without_both_files_there_is_no_verdict() -> None:
    rows = request_rows("torch-fp32", [1.0])
    ratios = decoder_ratios(rows, [EngineResult("torch-fp32", "torch", 1, 1, ())])
    faults, notes = judge("decoder", ratios, None, Settings())
    assert not faults and notes[0].startswith("no verdict")


def test_an_encoder_s_mix_is_the_geometric_mean_over_shapes() -> None:
    ratios = encoder_result().ratios["engines"][INT8]
    assert ratios["mix"]["median"] == pytest.approx(2.0)
    assert list(ratios["cells"]) == ["1x16", "8x128"]


def test_turns_change_their_order_and_leave_none_out() -> None:
    specs = [EngineSpec(name, "torch", Path()) for name in "abc"]
    orders = ["".join(spec.name for spec in turns(specs, round_)) for round_ in range(4)]
    assert orders == ["abc", "acb", "cab", "cba"]


def test_thread_counts_end_at_the_free_cores() -> None:
    assert thread_counts(1) == [1] and thread_counts(2) == [1, 2]
    assert thread_counts(10) == [1, 2, 3, 4, 6, 8, 10]


def test_bytes_of_a_token_are_weights_and_cache() -> None:
    settings = Settings(prompt_tokens=100, decode_tokens=20)
    facts = {"weight_bytes_per_token": 1000, "kv_cache_bytes_per_element": 2}
    assert decoders.bytes_per_token(facts, 8, settings) == 1000 + 8 * 110 * 2
    assert decoders.bytes_per_token(facts, None, settings) == 1000
    assert decoders.bytes_per_token({}, 8, settings) is None


def test_the_highest_bandwidth_counts() -> None:
    rounds = {1: {0: 6.0, 1: 4.0}, 2: {0: 8.0}, 12: {0: 30.0}}
    found = highest_bandwidths({"1": 5.0, "2": 9.0}, rounds)
    assert list(found.items()) == [("1", 6.0), ("2", 9.0), ("12", 30.0)]


def test_a_share_is_taken_within_the_round(tmp_path: Path) -> None:
    spec = EngineSpec(FP32, "onnxruntime", tmp_path)
    fleet = Fleet("decoder", [spec], (0,), TimedOptions(1, 8), None, 8 << 30, lambda line: None)
    fleet.threads[FP32] = 1
    # The second round met a busy machine: half the bandwidth, half the speed.
    fleet.bandwidths = {1: {0: 1000.0, 1: 500.0}}
    for round_, speed in enumerate((40.0, 20.0)):
        fleet.record(spec, "request", "decode_tokens_per_sec", speed, round=round_)
    assert decoders.bandwidth_share(fleet, spec, 10) == pytest.approx(0.4)


def test_a_busy_machine_is_told() -> None:
    quiet = load_summary([Load(0.1, 0.0), Load(2.0, 0.0), Load(0.1, 0.0)])
    assert not quiet["busy"] and quiet["foreign_cores_max"] == 2.0
    result = decoder_result([1.0], [0.5])
    result.machine = machine(busy=True)
    assert STRINGS["en"]["busy"] in page(result)


def test_prompts_and_batches_are_the_same_for_all() -> None:
    settings = Settings(prompt_tokens=5)
    assert decoders.prompt(settings, 9, 1) == decoders.prompt(settings, 9, 1)
    tokens = encoders.tokens_of((2, 3), 9, 0)
    assert [len(row) for row in tokens] == [3, 3] and max(max(row) for row in tokens) < 9
    assert encoders.cells_of(Settings(batches=(1, 8), sequences=(16, 512)), 128) == [
        (1, 16),
        (8, 16),
    ]


def test_lines_hold_machine_measurements_and_summary() -> None:
    result = decoder_result([1.0, 1.0], [0.5, 0.5])
    rows = [json.loads(line) for line in json_lines(result).splitlines()]
    assert rows[0]["record"] == "machine" and rows[0]["cpu_model"] == "Test CPU"
    assert rows[-1]["record"] == "summary" and rows[-1]["passed"] is True
    assert len(rows) == len(result.measurements) + 2
    table_rows = list(csv.DictReader(csv_text(result).splitlines()))
    assert len(table_rows) == len(result.measurements)
    assert table_rows[0]["metric"] == "request_sec" and table_rows[0]["clients"] == ""


def test_an_output_folder_that_cannot_be_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        require_writable(tmp_path / "file" / "out")


class _Page(html.parser.HTMLParser):
    """Tags and texts, to see what a browser would."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("src", "href") or (value or "").startswith("#")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def evil_result() -> Result:
    result = decoder_result([1.0], [0.5], notes=[EVIL])
    result.model = EVIL
    result.machine = machine(cpu_model=EVIL, versions={EVIL: EVIL}, energy=EVIL)
    result.engines = [replace(engine, name=f"{engine.name}{EVIL}") for engine in result.engines]
    rows = result.ratios["engines"]
    ratios = {f"{name}{EVIL}": row for name, row in rows.items()}
    result.ratios = {"baseline": EVIL, "engines": ratios}
    result.quality = {"source": EVIL, "engines": {EVIL: {EVIL: 1.0}}}
    return result


@pytest.mark.parametrize("result", [evil_result(), encoder_result()], ids=["evil", "encoder"])
def test_the_page_needs_nothing_from_outside_and_escapes_all(result: Result) -> None:
    text = page(result)
    seen = _Page()
    seen.feed(text)
    assert not {"script", "link", "iframe", "img", "object"} & set(seen.tags)
    assert "@import" not in text and not re.search(r"url\(|https?:", text)
    assert seen.tags.count("section") == 2 and 'lang="zh"' in text
    if result.model == EVIL:
        assert any(EVIL in shown for shown in seen.texts)


def test_both_languages_have_the_same_words() -> None:
    assert STRINGS["en"].keys() == STRINGS["zh"].keys()
    for name, text in STRINGS["en"].items():
        fields = set(re.findall(r"{(\w+)}", text))
        assert fields == set(re.findall(r"{(\w+)}", STRINGS["zh"][name])), name


def test_a_failing_result_says_so_on_the_page() -> None:
    text = page(decoder_result([1.0], [2.0]))
    assert "onnx-int8 is slower than onnx-fp32: 0.50x" in text
    assert "未通过" in text and 'class="verdict fail"' in text


def test_plots_stay_within_their_frame() -> None:
    rows = [Bar("a", 3, 1, 9, text="x" * 20), Bar("b", 0.5)]
    text = bars("t", rows, mark=1) + lines("t", [Line("l", [(1, 2.0), (16, 3.0)])], "x")
    places = [float(x) for x in re.findall(r'\bx="([\d.]+)"', text)]
    assert max(places) <= 340 and min(places) >= 0
    wide = lines("t", [Line("l", [(1, 20_000.0), (2, 1.0)])], "x")
    ends = re.findall(r'class="v e" x="([\d.]+)" y="[\d.]+">([^<]+)<', wide)
    assert ends and all(float(x) - 6 * len(label) >= 0 for x, label in ends)
    assert [nice(x) for x in (0.7, 1, 3, 130)] == pytest.approx([0.8, 1, 4, 200])
    assert [number(x) for x in (0, 1234.5, 12.34, 0.0123)] == ["0", "1,234", "12.3", "0.0123"]


@pytest.mark.parametrize("width", [500, 1200])
def test_the_page_in_a_browser(tmp_path: Path, width: int) -> None:
    """Chromium renders it, offline: nothing wider than the screen but tables that scroll."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium here (apt install chromium)")
    result = decoder_result([1.0, 1.1], [0.5, 0.6])
    path = write_files(result, tmp_path)[2]
    text = path.read_text(encoding="utf-8")
    probe = "<script>document.title='w'+document.documentElement.scrollWidth</script></body>"
    path.write_text(text.replace("</body>", probe), encoding="utf-8")
    image = tmp_path / "page.png"
    common = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    common += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600"]
    url = path.as_uri()
    subprocess.run([*common, f"--screenshot={image}", url], check=True, capture_output=True)
    assert image.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and image.stat().st_size > 20_000
    dom = subprocess.run([*common, "--dump-dom", url], check=True, capture_output=True, text=True)
    found = re.search(r"<title>w(\d+)</title>", dom.stdout)
    assert found and int(found[1]) <= width
