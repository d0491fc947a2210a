"""llama.cpp's quantizer through its library: types, refusals, bytes equal to llama-quantize's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy
import pytest
from tiny_gguf import tiny_gguf

from common.errors import UserError
from runtimes.gguf_file import read_metadata, read_tensor_types
from runtimes.imatrix_file import Imatrix, ImatrixEntry, read_imatrix, write_imatrix
from runtimes.quantizer import canonical_quantization, quantization_names, quantize, run_jobs
from runtimes.quantizer_process import Job


def _types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.type for tensor in read_tensor_types(path)}


def _imatrix(path: Path, source: Path) -> Path:
    random = numpy.random.default_rng(1)
    entries = {}
    for tensor in read_tensor_types(source):
        if len(tensor.shape) == 2 and tensor.name.startswith("blk."):
            sums = random.uniform(0.1, 9, (1, tensor.shape[1])).astype(numpy.float32)
            entries[tensor.name] = ImatrixEntry(sums, numpy.array([7.0], numpy.float32))
    write_imatrix(path, Imatrix(entries, 3, 512, ["calibration.txt"]))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("source") / "model-F32.gguf", layers=8)


def test_names_hold_the_types_people_ask_for_and_only_possible_ones(
    source: Path, tmp_path: Path
) -> None:
    names = quantization_names()
    assert {"Q4_0", "Q4_K_M", "Q5_K_M", "Q8_0", "IQ4_XS", "F16", "BF16", "F32"} <= names.keys()
    unused = str(tmp_path / "unused.gguf")
    jobs = [Job(str(source), unused, number, dry_run=True) for number in names.values()]
    logs = run_jobs(jobs)  # raises when llama.cpp refuses one as an output type
    assert [len(log.tensors) for log in logs] == [len(read_tensor_types(source))] * len(names)
    assert not (tmp_path / "unused.gguf").exists()


def test_aliases_and_unknown_names() -> None:
    assert canonical_quantization("q4_k") == "Q4_K_M"
    with pytest.raises(UserError, match="did you mean 'Q4_K_M'"):
        canonical_quantization("Q4_KM")


def test_log_agrees_with_the_file(source: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    log = quantize(
        source,
        tmp_path / "q.gguf",
        "Q4_K_M",
        progress=lambda number, count, name: seen.append(f"{number}/{count} {name}"),
    )
    types = _types(tmp_path / "q.gguf")
    assert {t.name: t.target_type for t in log.tensors} == types
    assert {"Q4_K", "Q6_K", "F32"} == set(types.values())
    assert not log.fallbacks
    assert len(seen) == len(types) and seen[-1].startswith(f"{len(types)}/{len(types)} ")


def test_dry_run_names_the_same_types_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "real.gguf", "Q5_K_M")
    log = quantize(source, tmp_path / "dry.gguf", "Q5_K_M", dry_run=True)
    assert {t.name: t.target_type for t in log.tensors} == _types(tmp_path / "real.gguf")
    assert not (tmp_path / "dry.gguf").exists()


def test_fallbacks_are_reported_with_reason(tmp_path: Path) -> None:
    narrow = tiny_gguf(tmp_path / "narrow.gguf", hidden=288, ffn=172, layers=1)
    log = quantize(narrow, tmp_path / "q.gguf", "Q4_K_M")
    found = {f.name: (f.columns, f.block, f.wanted, f.got) for f in log.fallbacks}
    assert found["blk.0.ffn_up.weight"] == (288, 256, "Q4_K", "Q5_0")
    assert found["blk.0.ffn_down.weight"][0] == 172 and found["blk.0.ffn_down.weight"][3] == "F16"


def test_overrides_and_pure(source: Path, tmp_path: Path) -> None:
    quantize(
        source,
        tmp_path / "o.gguf",
        "Q4_K_M",
        tensor_types={r"blk\.0\.attn_q": "Q8_0"},
        output_type="Q5_K",
        token_embedding_type="IQ4_XS",
    )
    types = _types(tmp_path / "o.gguf")
    assert types["blk.0.attn_q.weight"] == "Q8_0"
    assert types["blk.1.attn_q.weight"] == "Q4_K"
    assert (types["output.weight"], types["token_embd.weight"]) == ("Q5_K", "IQ4_XS")
    quantize(source, tmp_path / "p.gguf", "Q4_K_M", pure=True)
    assert set(_types(tmp_path / "p.gguf").values()) == {"Q4_K", "F32"}
    with pytest.raises(UserError, match="unknown tensor type 'Q9_K'"):
        quantize(source, tmp_path / "x.gguf", "Q4_0", tensor_types={"attn": "Q9_K"})


def test_imatrix_changes_weights_and_is_named_in_the_file(source: Path, tmp_path: Path) -> None:
    imatrix = _imatrix(tmp_path / "imatrix.gguf", source)
    quantize(source, tmp_path / "plain.gguf", "Q4_0")
    quantize(source, tmp_path / "weighed.gguf", "Q4_0", imatrix=imatrix)
    plain, weighed = _types(tmp_path / "plain.gguf"), _types(tmp_path / "weighed.gguf")
    changed = {name for name in plain if plain[name] != weighed[name]}
    assert changed == {"blk.0.ffn_down.weight"}  # the first eighth of ffn_down, by the mix
    assert weighed["blk.0.ffn_down.weight"] == "Q4_1"
    metadata = read_metadata(tmp_path / "weighed.gguf")
    assert metadata["quantize.imatrix.file"] == "imatrix.gguf"
    assert metadata["quantize.imatrix.dataset"] == "calibration.txt"
    assert metadata["quantize.imatrix.entries_count"] == 7 * 8
    assert metadata["quantize.imatrix.chunks_count"] == 3


def test_imatrix_file_comes_back_as_written(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "experts.gguf"
    sums = numpy.array([[2, 4, 6], [1, 1, 1]], numpy.float32)
    entry = ImatrixEntry(sums, numpy.array([2, 0], numpy.float32))
    write_imatrix(path, Imatrix({"blk.0.ffn_up_exps.weight": entry}, 1, 16, ["a", "b"]))
    back = read_imatrix(path)
    assert (back.chunk_count, back.chunk_size, tuple(back.datasets)) == (1, 16, ("a", "b"))
    # An expert without tokens counts as 1 everywhere, as in llama-quantize.
    assert back.importances()["blk.0.ffn_up_exps.weight"].tolist() == [1, 2, 3, 1, 1, 1]
    with pytest.raises(UserError, match="no importance matrix"):
        read_imatrix(source)


def test_refusals_say_why(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"requires an imatrix(.|\n)*hint: .*importance matrix"):
        quantize(source, tmp_path / "x.gguf", "IQ2_XXS")
    quantize(source, tmp_path / "q8.gguf", "Q8_0")
    with pytest.raises(UserError, match=r"requantizing(.|\n)*hint: .*F32, F16 or BF16"):
        quantize(tmp_path / "q8.gguf", tmp_path / "x.gguf", "Q4_0")
    truncated = tmp_path / "truncated.gguf"
    truncated.write_bytes(source.read_bytes()[:-100_000])
    with pytest.raises(UserError, match=r"truncated\.gguf"):
        quantize(truncated, tmp_path / "x.gguf", "Q4_0")


@pytest.mark.parametrize("cut", [3, 40, 3000, -4096])
def test_damaged_files_are_bad_input(source: Path, tmp_path: Path, cut: int) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(source.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"damaged\.gguf"):
        read_tensor_types(damaged)


def _llama_quantize() -> str:
    tool = os.environ.get("EDGEFORGE_LLAMA_QUANTIZE") or shutil.which("llama-quantize")
    if not tool:
        pytest.skip("llama-quantize is neither on PATH nor named by EDGEFORGE_LLAMA_QUANTIZE")
    return tool


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K_M", "Q5_K_M", "Q8_0", "IQ4_XS"])
@pytest.mark.parametrize("with_imatrix", [False, True])
def test_bytes_equal_llama_quantize(
    source: Path, tmp_path: Path, name: str, with_imatrix: bool
) -> None:
    tool = _llama_quantize()
    options: list[str] = []
    imatrix = None
    if with_imatrix:
        imatrix = _imatrix(tmp_path / "imatrix.gguf", source)
        options = ["--imatrix", imatrix.name]
    command = [tool, *options, str(source), "theirs.gguf", name]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    quantize(source, tmp_path / "ours.gguf", name, imatrix=imatrix)
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()
