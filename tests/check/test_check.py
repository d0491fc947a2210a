"""`edgeforge check` on the demo model, and on what is broken, odd or of another kind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from toolchain.check.parts import PARTS
from toolchain.check.pre_tokenizer import known_by_hash
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.locate import locate
from toolchain.cli import main
from toolchain.plan import type_sizes

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT.parent / "shared" / "assets"


@pytest.fixture
def copied(tmp_path: Path) -> Callable[..., Path]:
    """The demo model with changed keys of config.json and tokenizer.json; weights are linked."""

    def copy(config: dict[str, Any] | None = None, **tokenizer: Any) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(locate("demo"), folder, copy_function=_linked)
        for name, changes in (("config.json", config or {}), ("tokenizer.json", tokenizer)):
            path = folder / name
            text = json.dumps({**json.loads(path.read_text("utf-8")), **changes})
            path.unlink()
            path.write_text(text, encoding="utf-8")
        return folder

    return copy


def _linked(source: str, target: str) -> None:
    Path(target).symlink_to(source)


def _json(capsys: pytest.CaptureFixture[str], model: Path | str, *more: str) -> dict[str, Any]:
    code = main(["check", str(model), *more, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == (0 if found["works"] else 1)
    return found


def _verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {entry["part"]: entry["verdict"] for entry in found["findings"]}


def _detail(found: dict[str, Any], part: str) -> str:
    return " ".join(next(f["details"] for f in found["findings"] if f["part"] == part))


def test_the_demo_model_works_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "demo", "--target", "jetson")
    assert set(_verdicts(found)) == set(PARTS)
    assert set(_verdicts(found).values()) == {"works"}
    sizes = {r["size"]["quantization"]: r["size"]["weights_bytes"] for r in found["gguf"]["rows"]}
    exact = type_sizes(inspect(locate("demo")), ["Q4_K_M"])[0]
    assert sizes["Q4_K_M"] == exact.weights_bytes
    assert all(row["fits"] for row in found["gguf"]["rows"])
    assert found["onnx"]["rows"]


def test_nothing_heavy_is_imported() -> None:
    """Three seconds are kept by reading headers alone."""
    code = (
        "import sys; from toolchain.cli import main; main(['check', 'demo', '--target', 'jetson']);"
        "print([n for n in ('torch', 'transformers', 'onnxruntime') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_head_size_that_the_kernel_refuses(
    copied: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    heads = {"head_dim": 8, "num_attention_heads": 32, "num_key_value_heads": 16}
    found = _json(capsys, copied(heads))
    assert _verdicts(found)["onnx"] == "limit"
    assert "head size 8 is no multiple of 16" in _detail(found, "onnx")


def test_a_tokenizer_that_llama_cpp_cannot_follow(
    copied: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(normalizer={"type": "Lowercase"})
    found = _json(capsys, folder)
    verdicts = _verdicts(found)
    assert verdicts["gguf"] == "refused"
    assert "Lowercase" in _detail(found, "gguf")
    assert verdicts["onnx"] == "works"
    assert found["gguf"] is None
    assert main(["check", str(folder)]) == 0
    assert "what to do:" in capsys.readouterr().out


def test_an_architecture_that_pruning_does_not_know(
    copied: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied({"model_type": "stablelm", "architectures": ["StableLmForCausalLM"]})
    found = _json(capsys, folder)
    assert _verdicts(found) | {"prune": "refused", "sparsify": "refused"} == _verdicts(found)
    assert "does not know the tensors of 'stablelm'" in _detail(found, "prune")
    assert _verdicts(found)["gguf"] == "works"


def test_widths_that_fall_back_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiny_models import tiny_llama

    folder = tiny_llama(tmp_path / "odd", hidden=192, heads=6, kv_heads=3, ffn=360)
    assert main(["check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "rows that are no whole blocks get larger types" in out
    assert "types without fallbacks: F16" in out


def test_a_chat_template_of_no_known_family(
    copied: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}@@{{ m.role | upper }}@@{{ m.content | length }}{{ m.content }}"
        "{% endfor %}"
    )
    found = _json(capsys, folder)
    assert _verdicts(found)["ollama"] == "limit"
    assert "Ollama 0.30 or newer only" in _detail(found, "ollama")


def test_an_encoder_becomes_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tiny_models import tiny_bert

    found = _json(capsys, tiny_bert(tmp_path / "bert"), "--target", "cpu-server")
    verdicts = _verdicts(found)
    assert (verdicts["onnx"], verdicts["gguf"], verdicts["ollama"]) == ("works", *["refused"] * 2)
    assert found["works"] and found["gguf"] is None and found["onnx"]["rows"]


def test_a_tokenizer_that_does_not_load_is_refused(
    copied: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = _json(capsys, copied(model={"type": "BPE", "vocab": {"a": 0}}))
    assert _verdicts(found)["tokenizer"] == "refused"
    assert "tokenizer.json does not load" in _detail(found, "tokenizer")
    assert not found["works"]


def test_a_broken_checkpoint_names_every_fault(
    copied: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {"num_hidden_layers": 7, "eos_token_id": 9999, "architectures": ["Lama"]}
    folder = copied({**broken, "num_local_experts": 8})
    (folder / "generation_config.json").unlink()
    found = _json(capsys, folder)
    assert not found["works"]
    assert found["findings"] == []
    for fault in ("7 layers", "eos_token_id 9999", "architecture Lama", "8 experts"):
        assert any(fault in line for line in found["faults"])
    assert main(["check", str(folder)]) == 1
    assert "the checkpoint is refused:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/such/folder"], "does not exist"),
        (["demo", "--target", "jetsn"], "did you mean 'jetson'"),
    ],
)
def test_bad_input_is_one_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_build_asks_only_what_gets_this_model(copied: Callable[..., Path]) -> None:
    """From `distill` on a student goes on; a classifier is made of a model without a head."""
    from toolchain.check.parts import require_parts
    from toolchain.recipe import Recipe, read_recipe

    odd = inspect(copied(normalizer={"type": "Lowercase"}))
    taught = {"stages": ("distill", "prune", "export"), "distill": {"student": "small"}}
    require_parts(odd, Recipe.model_validate(taught), "gguf")
    require_parts(odd, read_recipe("export"), "onnx")
    with pytest.raises(UserError, match="Lowercase"):
        require_parts(odd, read_recipe("export"), "gguf")


@pytest.mark.skipif(not ASSETS.is_dir(), reason="../shared/assets is absent")
def test_the_converters_own_table_is_read() -> None:
    """GPT-2's real tokenizer is in the converter's table; the demo model's own is not."""
    assert known_by_hash(ASSETS / "tokenizers" / "gpt2")
    assert not known_by_hash(locate("demo"))


@pytest.mark.parametrize(
    ("stages", "model_type", "tokenizer", "message"),
    [
        ("[evaluate, prune, export]", "stablelm", {}, "pruning does not know the tensors"),
        ("[evaluate, sparsify, export]", "stablelm", {}, "pruning does not know the tensors"),
        ("[evaluate, export]", "llama", {"normalizer": {"type": "Lowercase"}}, "Lowercase"),
    ],
)
def test_a_build_refuses_before_its_first_stage(
    copied: Callable[..., Path],
    tmp_path: Path,
    stages: str,
    model_type: str,
    tokenizer: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"stablelm": "StableLmForCausalLM", "llama": "LlamaForCausalLM"}
    config = {"model_type": model_type, "architectures": [names[model_type]]}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"stages: {stages}\n")
    model = copied(config, **tokenizer)
    out = tmp_path / "build"
    arguments = ["--target", "laptop", "--model", str(model), "--recipe", str(recipe)]
    assert main(["build", *arguments, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not [path for path in out.rglob("*") if path.name.startswith(("evaluate", "convert"))]
