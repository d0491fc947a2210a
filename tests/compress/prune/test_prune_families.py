"""Every family, every axis: a cut is the original without the removed parts, and recovery helps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compress.prune.cuts import logits, make, masked_logits, smaller
from tiny_families import DECODERS, ENCODERS, tiny_decoder, tiny_encoder

from toolchain.compress.prune.calibration import Batch

AXES = (("layers",), ("groups",), ("ffn",), ("hidden",), ("layers", "groups", "ffn", "hidden"))
CASES = [(family, axes) for family in DECODERS for axes in AXES] + [
    (family, axes) for family in ENCODERS for axes in (("layers",), ("ffn",), ("layers", "ffn"))
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks: threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    decoders = {family: tiny_decoder(root / family, family) for family in DECODERS}
    return decoders | {family: tiny_encoder(root / family, family) for family in ENCODERS}


def _load(path: Path) -> Any:
    """As anyone would with plain transformers."""
    import transformers

    from toolchain.checkpoint.inspect import inspect

    kind = getattr(transformers, inspect(path).architecture or "")
    network, facts = kind.from_pretrained(path, output_loading_info=True)
    assert not any(facts[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return network.eval()


@pytest.mark.parametrize(("family", "axes"), CASES)
def test_a_cut_is_the_original_without_the_removed_parts(
    folders: dict[str, Path], tmp_path: Path, family: str, axes: tuple[str, ...]
) -> None:
    source = folders[family]
    if family == "gemma" and axes == ("groups",):
        pytest.skip("one group is all there is")
    made = make(source, tmp_path / "cut", smaller(source, axes), score="random", recover=False,
                layer_score="random")  # fmt: skip
    network = _load(made.path)
    assert sum(weight.numel() for weight in network.parameters()) == made.candidate.parameters
    batch = made.maker.batches[0]
    wanted = masked_logits(made, batch)
    with torch.no_grad():
        found = logits(network, batch)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_recovery_comes_nearer(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    axes = ("layers", "groups", "ffn") if family in DECODERS else ("ffn",)
    source = folders[family]
    far, sizes = [], smaller(source, axes)
    for recover in (False, True):
        made = make(source, tmp_path / f"cut-{recover}", sizes, recover=recover)
        batch = made.maker.batches[0]
        wanted, found = (_last_hidden(path, batch) for path in (source, made.path))
        far.append(float((wanted - found).norm() / wanted.norm()))
    assert far[1] < 0.95 * far[0]


def _last_hidden(path: Path, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        made = _load(path)(
            input_ids=batch.ids, attention_mask=batch.valid.long(), output_hidden_states=True
        )
    hidden: torch.Tensor = made.hidden_states[-1][batch.valid]
    return hidden
