"""The benchmark end to end on a tiny model: every engine of a decoder, the failing verdict, the
worker's protocol, and bad input."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import bench_cpu
import numpy as np
import onnx
import pytest
from benchmark.bundles import bundle_graph, bundle_manifest
from benchmark.client import WorkerClient
from benchmark.fleet import Fleet
from benchmark.inputs import gguf_name, kind_of
from benchmark.records import EngineSpec
from benchmark.shapes import make_shape
from benchmark.worker import Worker, answer, peak_rss_bytes
from tiny_models import tiny_bert, tiny_llama

from common.errors import UserError
from common.files import sha256_file
from runtimes.timed import ENGINES, RequestTime, TimedOptions, open_decoder, serve_with_threads
from runtimes.timed_ort import tensor_bytes, weight_bytes_per_token
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.export.onnx import export

MIX = ["--prompt-tokens", "24", "--decode-tokens", "4", "--threads", "1", "--quick"]
MIX += ["--clients", "2", "--quality-tokens", "100"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny", hidden=64, ffn=128, heads=4)


@pytest.fixture(scope="module")
def fp32(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "fp32"
    folder.mkdir()
    export.run(Artifact(checkpoint, "hf", {}, "checkpoint"), export.Config(), folder)
    return folder


@pytest.fixture(scope="module")
def int8(fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dynamic INT8 of the same graph, its properties and config beside it."""
    from onnxruntime.quantization import quantize_dynamic

    folder = tmp_path_factory.mktemp("onnx") / "int8"
    folder.mkdir()
    quantize_dynamic(
        fp32 / "model.onnx",
        folder / "model.onnx",
        op_types_to_quantize=["MatMul"],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    made, source = onnx.load(folder / "model.onnx"), onnx.load(fp32 / "model.onnx")
    del made.metadata_props[:]
    made.metadata_props.extend(source.metadata_props)
    onnx.save(made, folder / "model.onnx")
    if (fp32 / "genai_config.json").is_file():
        (folder / "genai_config.json").write_bytes((fp32 / "genai_config.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def run(
    checkpoint: Path, fp32: Path, int8: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Path]:
    """One run with a gate that no quantized file meets: exit code and results."""
    work = tmp_path_factory.mktemp("work")
    arguments = ["--model", str(checkpoint), "--onnx", str(fp32), "--int8", str(int8), *MIX]
    arguments += ["--work", str(work), "--max-kld", "0"]
    arguments += ["--engines", "onnx-fp32,onnx-int8,torch-bf16,gguf-q8_0"]
    return bench_cpu.main(arguments), work / "results"


def rows_of(out: Path) -> list[dict[str, Any]]:
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_missed_gate_fails_with_exit_code_1(run: tuple[int, Path]) -> None:
    code, out = run
    summary = rows_of(out)[-1]
    assert code == bench_cpu.EXIT_FAILED and summary["passed"] is False
    gate = next(fault for fault in summary["faults"] if fault["what"] == "kld_mean")
    assert gate["figure"] > 0 == gate["limit"] and "onnx-int8 misses" in gate["text"]


def test_every_engine_is_measured_in_every_round(run: tuple[int, Path]) -> None:
    rows = rows_of(run[1])
    seen = {
        (row["engine"], row["round"])
        for row in rows
        if row["record"] == "measurement" and row["metric"] == "request_sec"
    }
    names = ["onnx-fp32", "onnx-int8", "torch-bf16", "gguf-q8_0"]
    assert seen >= {(name, round_) for name in names for round_ in (0, 1)}
    assert all(row["value"] > 0 for row in rows if row["record"] == "measurement")
    with (run[1] / "results.csv").open(encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == len(rows) - 2


def test_figures_are_complete_and_of_the_right_size(
    run: tuple[int, Path], fp32: Path, checkpoint: Path
) -> None:
    rows = rows_of(run[1])
    machine, summary = rows[0], rows[-1]
    assert machine["read_bandwidth_bytes_per_sec"]["1"] > 0 and "avx2" in machine["instructions"]
    assert machine["foreign_cores_max"] >= 0 and machine["versions"]["onnxruntime"]
    engines = {engine["name"]: engine for engine in summary["engines"]}
    for engine in engines.values():
        figures = engine["figures"]
        assert figures["peak_rss_bytes"] > 10_000_000
        assert figures["bandwidth_share"] > 0
        assert figures["clients"]["2"]["requests_per_sec"]["median"] > 0
        assert figures["request_latency"]["p50_sec"] <= figures["request_latency"]["p99_sec"]
        assert engine["threads"] == 1 and len(engine["cores"]) == 1
    # torch's libraries are in torch's process alone.
    assert (
        engines["torch-bf16"]["figures"]["peak_rss_bytes"]
        > 2 * engines["gguf-q8_0"]["figures"]["peak_rss_bytes"]
    )
    assert engines["onnx-fp32"]["file_bytes"] == (fp32 / "model.onnx").stat().st_size
    quality = summary["quality"]["engines"]
    assert 0 < quality["onnx-int8"]["kld_mean"] < 0.1
    assert quality["gguf-q8_0"]["top1_agreement"] > 0.5
    assert (run[1] / "benchmark.html").stat().st_size > 10_000


def test_one_weight_is_read_once_per_token(fp32: Path, checkpoint: Path) -> None:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(checkpoint)
    weights = sum(p.numel() for p in network.parameters())
    table = network.get_input_embeddings().weight.numel()
    found = weight_bytes_per_token(fp32 / "model.onnx")
    # Beside the weights there are tables of sines and small constants.
    assert 0 <= found - 4 * (weights - table) < 512 * 64 * 4 * 2
    assert tensor_bytes(onnx.TensorProto.INT4, [3, 3]) == 5
    assert tensor_bytes(onnx.TensorProto.FLOAT16, [3, 3]) == 18


def test_engines_time_the_same_work_and_give_the_same_logits(checkpoint: Path, fp32: Path) -> None:
    prompt = [5, 6, 7, 8, 9]
    rows = []
    for engine, path in (("torch", checkpoint), ("onnxruntime", fp32)):
        for every in (False, True):
            decoder = open_decoder(engine, path, TimedOptions(1, 32, all_logits=every))
            assert decoder.prefill(prompt) > 0 and len(decoder.decode(3)) == 3
            served = decoder.serve([prompt] * 4, 3, 2)
            assert len(served.requests) == 4
            assert all(0 < r.ttft_sec <= r.total_sec <= served.wall_sec for r in served.requests)
            rows.append(decoder.logits(prompt))
            decoder.close()
    for other in rows[1:]:
        assert np.abs(other - rows[0]).max() < 1e-4


def test_threads_share_a_model_and_pass_on_a_fault() -> None:
    served = serve_with_threads(
        lambda prompt: RequestTime(0.1, len(prompt)),
        [[1], [1, 2], [1, 2, 3]],
        clients=2,
    )
    assert sorted(request.total_sec for request in served.requests) == [1, 2, 3]

    def fail(prompt: object) -> Any:
        raise UserError("broken")

    with pytest.raises(UserError, match="broken"):
        serve_with_threads(fail, [[1]], clients=1)


def test_an_encoder_s_shapes_and_agreement(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "bert", hidden=32, layers=1, heads=2, ffn=64)
    task = tmp_path / "task.jsonl"
    task.write_text('{"text": "a fine film", "label": "positive"}\n{"text": "no", "label": 0}\n')
    arguments = ["--model", str(folder), "--quick", "--threads", "1"]
    arguments += ["--batches", "1,2", "--sequences", "16"]
    arguments += ["--work", str(tmp_path / "work"), "--engines", "torch-fp32,torch-bf16"]
    assert bench_cpu.main([*arguments, "--task", str(task)]) == 0
    summary = rows_of(tmp_path / "work/results")[-1]
    cells = summary["engines"][0]["figures"]["cells"]
    assert list(cells) == ["1x16", "2x16"]
    assert cells["2x16"]["p50_sec"] > 0
    quality = summary["quality"]["engines"]["torch-bf16"]
    assert quality["accuracy"] in (0, 0.5, 1) and quality["agreement"] >= 0.5
    assert any(note.startswith("no verdict") for note in summary["notes"])


def test_the_worker_answers_faults_and_goes_on() -> None:
    worker = Worker()
    assert "unknown command" in answer(worker, '{"command": "dance"}')["error"]["problem"]
    assert answer(worker, '{"command": "prefill", "tokens": [1]}')["error"]["problem"] == (
        "no decoder is loaded"
    )
    assert "JSONDecodeError" in answer(worker, "{")["error"]["problem"]
    assert answer(worker, '{"command": "memory"}')["peak_rss_bytes"] == pytest.approx(
        peak_rss_bytes(), rel=0.1
    )


def test_a_worker_that_dies_is_told_with_its_reason() -> None:
    with WorkerClient("doomed", 1) as worker:
        assert worker.ask("memory")["peak_rss_bytes"] > 0
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="doomed: its process was killed, most likely for mem"):
            worker.ask("memory")


def test_a_worker_s_fault_names_the_engine(tmp_path: Path) -> None:
    with WorkerClient("gguf-x", 1) as worker:
        with pytest.raises(UserError, match=r"gguf-x: .* is missing"):
            worker.load("decoder", "llama.cpp", tmp_path / "x.gguf", TimedOptions(1, 8), ())
        with pytest.raises(UserError, match="runs no encoder"):
            worker.load("encoder", "llama.cpp", tmp_path / "x.gguf", TimedOptions(1, 8), ())


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "torch", "runtimes.no_such_engine")
    with pytest.raises(UserError, match="engine torch is not installed"):
        open_decoder("torch", Path(), TimedOptions(1, 8))
    with pytest.raises(UserError, match="unknown engine 'torhc'"):
        open_decoder("torhc", Path(), TimedOptions(1, 8))


def fleet_of(sizes: list[int], free_bytes: int) -> Fleet:
    specs = [EngineSpec(f"e{i}", "torch", Path(), memory_bytes=n) for i, n in enumerate(sizes)]
    options = TimedOptions(1, 8)
    return Fleet("decoder", specs, (0,), options, None, free_bytes, lambda line: None)


def test_memory_is_looked_at_first() -> None:
    gib = 1 << 30
    assert fleet_of([gib, gib], 8 * gib).keeps_loaded
    assert not fleet_of([4 * gib, 4 * gib], 6 * gib).keeps_loaded
    with pytest.raises(UserError, match="not enough memory for e1: about 9"):
        fleet_of([gib, 8 * gib], 6 * gib)


def test_a_sweep_over_real_cores_and_models_loaded_turn_by_turn(fp32: Path) -> None:
    cores = tuple(sorted(os.sched_getaffinity(0)))[:2]
    specs = [EngineSpec("onnx-fp32", "onnxruntime", fp32 / "model.onnx")]
    fleet = Fleet("decoder", specs, cores, TimedOptions(1, 12), None, 8 << 30, lambda line: None)

    def timed(worker: WorkerClient) -> float:
        found = worker.ask("request", tokens=[3, 4, 5, 6], count=4)
        return float(found["ttft_sec"] + sum(found["step_secs"]))

    fleet.warm_up_with(timed)
    with fleet:
        fleet.sweep(timed, None)
        assert fleet.threads["onnx-fp32"] in (1, 2)
        if len(cores) == 2:
            assert set(fleet.sweeps["onnx-fp32"]) == {1, 2}
            assert {row.threads for row in fleet.measurements} == {1, 2}
        fleet.keeps_loaded = False
        pids = set()
        for _ in range(2):
            with fleet.turn(specs[0]) as (worker, energy):
                assert timed(worker) > 0
                pids.add(worker.pid)
            assert energy.joules is None and fleet.peaks["onnx-fp32"] > 10_000_000
        assert len(pids) == 2 and len(fleet.loads) == 2


def made_bundle(folder: Path, model_file: str = "model.onnx") -> Path:
    folder.mkdir()
    (folder / model_file).write_bytes(b"graph")
    (folder / "profile.json").write_text(json.dumps({"model_file": model_file}))
    (folder / "manifest.json").write_text(json.dumps({"gates": []}))
    names = (model_file, "profile.json", "manifest.json")
    sums = "".join(f"{sha256_file(folder / name)}  {name}\n" for name in names)
    (folder / "SHA256SUMS").write_text(sums)
    return folder


def test_a_bundle_is_taken_only_when_it_is_whole(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "bundle")
    assert bundle_manifest(bundle) == {"gates": []}
    assert bundle_graph(bundle) == bundle / "model.onnx"
    (bundle / "model.onnx").write_bytes(b"grapf")
    (bundle / "manifest.json").unlink()
    with pytest.raises(UserError, match="is damaged") as caught:
        bundle_manifest(bundle)
    assert len(caught.value.details) == 2
    with pytest.raises(UserError, match="no ONNX model"):
        bundle_graph(made_bundle(tmp_path / "other", "model-Q8_0.gguf"))


BAD = [
    ([], "there is nothing to measure"),
    (["--bundle", "nowhere"], "does not hold the model in FP32"),
    (["--model", "demo", "--bundle", "nowhere"], "bundle nowhere does not exist"),
    (["--shape", "huge"], "unknown shape 'huge'"),
    (["--shape", "tiny", "--model", "demo"], "two models"),
    (["--model", "demo", "--engines", "onnx-fp23"], "did you mean 'onnx-fp32'?"),
    (["--model", "demo", "--threads", "many"], "--threads is 'many'"),
    (["--model", "demo", "--clients", "1,x"], "--clients is 'x'"),
    (["--model", "demo", "--rounds", "0"], "--rounds must be at least 1"),
    (["--model", "demo", "--prompt-tokens", "99999", "--engines", "torch-fp32"], "do not fit"),
    (["--model", "demo", "--gguf", "no.gguf", "--engines", "gguf-no"], "no.gguf is missing"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_error(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_cpu.main([*arguments, "--work", str(tmp_path / "work")]) == 2
    output = capsys.readouterr()
    assert message in output.err and "Traceback" not in output.err and not output.out


def test_damaged_files_are_told(
    tmp_path: Path, checkpoint: Path, fp32: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.onnx").write_bytes((fp32 / "model.onnx").read_bytes()[:5000])
    common = ["--model", str(checkpoint), "--work", str(tmp_path / "work"), *MIX]
    arguments = [*common, "--engines", "onnx-fp32", "--onnx", str(broken)]
    assert bench_cpu.main(arguments) == 2
    assert "cannot be read as ONNX" in capsys.readouterr().err
    artifacts.describe(broken, format="onnx", stage="x")
    (broken / "model.onnx").write_bytes(b"changed")
    assert bench_cpu.main(arguments) == 2
    assert "is damaged: model.onnx" in capsys.readouterr().err


def test_a_shape_is_made_once(tmp_path: Path) -> None:
    folder = make_shape("tiny", tmp_path / "tiny")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert make_shape("tiny", folder) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    config = json.loads((folder / "config.json").read_text())
    assert config["num_key_value_heads"] == 2 and not config["tie_word_embeddings"]


def test_names_and_kinds() -> None:
    assert gguf_name(Path("model-Q4_K_M.gguf"), {}) == "gguf-q4_k_m"
    assert gguf_name(Path("a/x.gguf"), {"gguf-x": 1}) == "gguf-x-2"
    assert kind_of({"architectures": ["LlamaForCausalLM"]}) == "decoder"
    assert kind_of({"architectures": ["GPT2LMHeadModel"]}) == "decoder"
    assert kind_of({"architectures": ["BertForSequenceClassification"]}) == "encoder"
    assert kind_of({}) == "encoder"
