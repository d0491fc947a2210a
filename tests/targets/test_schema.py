"""Target files: what is accepted, what is refused, and that shipped figures are those published."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.errors import UserError
from targets.registry import load_target, target_files, target_names, validate_file

SHIPPED = {
    "android-phone",
    "cpu-server",
    "gpu-server",
    "jetson-agx-orin",
    "jetson-orin-nano",
    "laptop",
    "raspberry-pi-5",
}


def _edited(tmp_path: Path, shipped: str, **changes: Any) -> Path:
    """A shipped file with dotted keys changed (None removes one)."""
    source = next(path for path in target_files() if path.stem == shipped)
    data = copy.deepcopy(yaml.safe_load(source.read_text(encoding="utf-8")))
    for dotted, value in changes.items():
        *parents, key = dotted.split("__")
        place = data
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[key]
        else:
            place[key] = value
    path = tmp_path / f"{shipped}.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_every_required_device_ships() -> None:
    assert set(target_names()) == SHIPPED


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_target_is_valid_and_named_as_its_file(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.title_zh != target.title
    assert set(target.sources) == set(target.hardware_figures())


def test_jetson_means_the_orin_nano_with_its_cuda_architecture() -> None:
    target = load_target("jetson")
    assert target.name == "jetson-orin-nano"
    assert target.memory.bandwidth_gb_per_sec == 102
    assert "-DCMAKE_CUDA_ARCHITECTURES=87" in target.llama_cpp_build


def test_an_unknown_target_gets_near_names() -> None:
    with pytest.raises(UserError, match="did you mean 'jetson'"):
        load_target("jetsn")


def test_a_missing_file_is_not_taken_for_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_target(tmp_path / "none.yaml")


def test_a_target_file_anywhere_loads(tmp_path: Path) -> None:
    path = _edited(tmp_path, "laptop", name="my-board", memory__usable_gib=3.5)
    target = load_target(path)
    assert (target.name, target.memory.usable_gib) == ("my-board", 3.5)


def test_all_faults_are_named_at_once_with_suggestions(tmp_path: Path) -> None:
    path = _edited(
        tmp_path, "laptop", context_token=2048, kv_cache_type="q8", memory__bandwith=1, quality=None
    )
    with pytest.raises(UserError) as caught:
        validate_file(path)
    text = str(caught.value)
    assert len(caught.value.details) == 4
    assert "did you mean 'context_tokens'" in text
    assert "did you mean 'bandwidth_gb_per_sec'" in text
    assert "kv_cache_type" in text
    assert "'quality' is missing" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization": ["Q4_K_X"]}, "did you mean 'Q4_K_M'|did you mean 'Q4_K_S'"),
        ({"quantization": ["Q4_K", "q4_k_m"]}, "named twice"),
        ({"quantization": []}, "at least 1"),
        ({"memory__usable_gib": 17}, "exceeds total_gib"),
        ({"memory__bandwidth_gb_per_sec": float("nan")}, "finite|greater than 0"),
        ({"threads": 64}, "exceeds cores"),
        ({"gpu_layers": -1}, "needs an accelerator"),
        ({"accelerator__memory": "unified"}, "exactly when kind is 'none'"),
        ({"ollama": {"parameters": {"num_ctx": 1}}}, "follows from context_tokens"),
        ({"ollama": {"parameters": {"temprature": 1}}}, "did you mean 'temperature'"),
        ({"llama_cpp_build": ["-DX=1; rm -rf /"]}, "not of the form"),
        ({"sources__processor.cores": ""}, "is empty"),
        ({"name": "No Spaces"}, "pattern"),
    ],
)
def test_a_fault_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate_file(_edited(tmp_path, "laptop", **changes))


def test_a_figure_without_a_source_is_refused(tmp_path: Path) -> None:
    path = _edited(tmp_path, "gpu-server")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    del data["sources"]["accelerator.bandwidth_gb_per_sec"]
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(UserError, match=r"no source for accelerator\.bandwidth_gb_per_sec"):
        validate_file(path)


def test_cuda_needs_its_architecture_in_the_build_flags(tmp_path: Path) -> None:
    path = _edited(tmp_path, "jetson-orin-nano", llama_cpp_build=["-DGGML_CUDA=ON"])
    with pytest.raises(UserError, match="CMAKE_CUDA_ARCHITECTURES=87"):
        validate_file(path)


def test_yaml_tags_that_make_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(UserError, match="not valid YAML"):
        validate_file(path)


def test_quantization_names_are_canonical(tmp_path: Path) -> None:
    path = _edited(tmp_path, "laptop", quantization=["q4_k", "Q8_0"])
    assert validate_file(path).quantization == ("Q4_K_M", "Q8_0")


def test_quantization_names_are_those_of_the_runtime() -> None:
    from runtimes.quantizer import quantization_names
    from targets.quantization import QUANTIZATIONS

    assert set(QUANTIZATIONS) <= set(quantization_names())


def test_ollama_parameters_follow_from_the_target() -> None:
    pi = load_target("raspberry-pi-5")
    assert pi.ollama_parameters(512) == {"num_ctx": 512, "num_thread": 4, "num_gpu": 0}
    nano = load_target("jetson")
    assert nano.ollama_parameters(131072) == {"num_ctx": 4096, "num_batch": 256}
