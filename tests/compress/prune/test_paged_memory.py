"""A network of which one layer is in memory: the same figures, however little is held at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_families import calibration, tiny_decoder, tiny_encoder

from toolchain.checkpoint.inspect import inspect
from toolchain.compress.prune import scores
from toolchain.compress.prune.answers import open_network
from toolchain.compress.prune.calibration import Batch, read_batches
from toolchain.compress.prune.layout import find_layout
from toolchain.compress.prune.paged import PagedNetwork, open_paged, run_layer
from toolchain.compress.prune.settings import Prune


@pytest.fixture(params=["llama", "gemma3", "bert"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind = tiny_encoder if request.param == "bert" else tiny_decoder
    return kind(tmp_path / "base", request.param)


def _opened(folder: Path) -> tuple[PagedNetwork, list[Batch]]:
    info = inspect(folder)
    batches = read_batches(calibration(folder.parent / "text.txt"), folder, 512, 0)
    return open_paged(info, find_layout(info)), batches


def test_layers_see_what_they_see_in_the_whole_network(folder: Path) -> None:
    """Of the embedding only the rows of the text's tokens are read; nothing is left in memory."""
    paged, batches = _opened(folder)
    for _again in range(2):
        inputs = paged.layer_inputs(batches)
    assert all(weight.is_meta for weight in paged._network.parameters())
    batch, stream = batches[0], inputs.hidden[0]
    with torch.no_grad():
        for number in range(paged.layers):
            with paged.loaded(number) as module:
                stream = run_layer(module, stream, inputs.keywords[0][number])
    with open_network(folder) as network:
        seen: list[torch.Tensor] = []
        last = network.get_submodule(
            next(name for name, part in paged._network.named_modules() if part is paged.modules[-1])
        )
        last.register_forward_hook(
            lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        network(input_ids=batch.ids, attention_mask=batch.valid.long())
    torch.testing.assert_close(batch.own(stream), batch.own(seen[0]), atol=1e-5, rtol=1e-5)


def test_scores_do_not_depend_on_what_is_held_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = inspect(folder)
    batches = read_batches(calibration(folder.parent / "text.txt"), folder, 768, 0)
    padded = batches[0].valid.clone()
    padded[0, -3:] = False
    batches[0] = Batch(batches[0].ids, padded)
    found = []
    for tokens in (1, 1 << 20):
        monkeypatch.setattr(scores, "TOKENS_AT_ONCE", tokens)
        found.append(scores.score(info, find_layout(info), batches, Prune()))
    few, many = found
    for name in ("ffn", "groups"):
        for mine, other in zip(getattr(few, name), getattr(many, name), strict=True):
            torch.testing.assert_close(mine, other)
    torch.testing.assert_close(few.layers, many.layers, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(few.hidden, many.hidden)
