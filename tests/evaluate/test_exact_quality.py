"""Trained blocks against plain quantization: figures that are known beforehand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import SENTENCES, tiny_llama

from common.errors import UserError
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.compress.exact.rounding import settle_blocks
from toolchain.compress.exact.settings import ExactPlan
from toolchain.compress.exact.sidecar import write_exact
from toolchain.compress.exact.types import block_types
from toolchain.data.text import SEPARATOR
from toolchain.evaluate import exact_quality
from toolchain.export.gguf import imatrix
from toolchain.stage import Input


def _exact(base: Path, folder: Path, noise: float) -> Artifact:
    """The base's weights in Q4_0's blocks, moved by `noise` before."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    types = block_types(inspect(base), network, "Q4_0")
    for name in types:
        weight = network.get_parameter(name)
        weight.data += noise * weight.std() * torch.randn_like(weight)
    shutil.copytree(base, folder)
    exact = settle_blocks(network, ExactPlan(quantization="Q4_0", types=types))
    network.save_pretrained(folder)
    write_exact(folder, exact)
    return artifacts.describe(folder, format="hf", stage="distill")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[exact_quality.Text, ...]:
    folder = tmp_path_factory.mktemp("texts")
    found = []
    for name, parts in (("near", SENTENCES[:3]), ("far", SENTENCES[3:])):
        path = folder / f"{name}.txt"
        path.write_text(f"\n{SEPARATOR}\n".join(parts), encoding="utf-8")
        found.append(exact_quality.Text(name=name, kind=name, file=Input.of_file(path)))
    return tuple(found)


@pytest.mark.parametrize("kept", ["exact", "plain"])
def test_the_better_one_is_kept(
    kept: str, texts: tuple[exact_quality.Text, ...], tmp_path: Path
) -> None:
    start = tiny_llama(tmp_path / "start", hidden=64, ffn=96)
    if kept == "exact":  # a base that lies in the blocks already loses nothing by them
        base = _exact(start, tmp_path / "base", 0.0)
        made = _exact(base.path, tmp_path / "made", 0.0)
    else:
        base = artifacts.describe(start, format="hf", stage="inspect")
        made = _exact(start, tmp_path / "made", 0.5)
    (tmp_path / "imatrix").mkdir()
    matrix = imatrix.run(
        base, imatrix.Config(calibration=texts[0].file, max_tokens=128), tmp_path / "imatrix"
    )
    config = exact_quality.Config(
        base=Input.of_artifact(base), imatrix=Input.of_artifact(matrix), texts=texts
    )
    (tmp_path / "out").mkdir()
    measured = exact_quality.run(made, config, tmp_path / "out")
    found, lines = measured.measurements, exact_quality.told(measured)
    assert found["kept"] == kept and [row["name"] for row in found["texts"]] == ["near", "far"]
    assert ("the plain file is kept" in lines[-1]) == (kept == "plain") and "near" in lines[0]
    for row in found["texts"]:
        assert row["tokens"] > 20
        if kept == "exact":
            assert row["exact_kld"] == 0
        else:
            assert row["exact_kld"] > 2 * row["plain_kld"] > 0
            assert row["kld_ratio"] == pytest.approx(row["exact_kld"] / row["plain_kld"])


def test_a_plain_checkpoint_is_refused(
    texts: tuple[exact_quality.Text, ...], tmp_path: Path
) -> None:
    base = artifacts.describe(
        tiny_llama(tmp_path / "base", hidden=64, ffn=96), format="hf", stage="x"
    )
    config = exact_quality.Config(
        base=Input.of_artifact(base), imatrix=Input.of_artifact(base), texts=texts
    )
    with pytest.raises(UserError, match="was not made of the blocks"):
        exact_quality.run(base, config, tmp_path)
