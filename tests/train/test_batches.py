"""Packed rows compute what single rows compute, and the order of rows follows from the seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from train_runs import chat_rows, write_data

from toolchain.hf import load_tokenizer
from toolchain.train.batches import BLANK, Collate, EpochOrder, Rows
from toolchain.train.encoded import encode_data
from toolchain.train.settings import Finetune


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_and_single_rows_have_the_same_loss_and_gradients(
    attention: str, base: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation=attention)
    data = write_data(tmp_path / "d", train=chat_rows(9))
    found = {}
    for packing in (False, True):
        (folder := tmp_path / f"packing-{packing}").mkdir()
        settings = Finetune(packing=packing)
        facts = encode_data(data, folder, load_tokenizer(base), settings, 200).train
        rows = Rows(folder / "train.arrow", "causal", 0)
        assert len(rows) == facts.rows and (facts.rows < 9) == packing
        batch = Collate("causal", 0, packing)([rows[i] for i in range(len(rows))])
        model.zero_grad()
        loss = model(**batch, num_items_in_batch=torch.tensor(facts.learned)).loss
        loss.backward()
        gradient = model.model.layers[0].self_attn.q_proj.weight.grad.clone()
        found[packing] = (facts.learned, float(loss.detach()), gradient)
    assert found[True][0] == found[False][0]
    assert found[True][1] == pytest.approx(found[False][1], rel=1e-5)
    torch.testing.assert_close(found[True][2], found[False][2], rtol=1e-3, atol=1e-6)


def test_neighbours_in_a_packed_row_do_not_matter(base: Path) -> None:
    """The loss of an example stays when the one before it in the row changes."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base).eval()

    def logits(first: list[int]) -> Any:
        row = {"input_ids": [*first, 7, 8, 9], "labels": [-100] * 6, "lengths": [3, 3]}
        with torch.no_grad():
            return model(**Collate("causal", 0, True)([row])).logits[0, 3:]

    torch.testing.assert_close(logits([10, 11, 12]), logits([200, 201, 202]))


def test_epochs_have_their_own_order_and_blank_rows_fill_up(base: Path, tmp_path: Path) -> None:
    order = EpochOrder(10, seed=3, of=4)
    first = list(order)
    assert sorted(first[:10]) == list(range(10)) and first[10:] == [BLANK, BLANK]
    assert len(order) == 12 and list(order) == first
    order.set_epoch(1)
    assert list(order) != first
    assert list(EpochOrder(10, seed=4, of=4)) != first
    data = write_data(tmp_path / "d", train=chat_rows(3))
    encode_data(data, tmp_path, load_tokenizer(base), Finetune(), 200)
    rows = Rows(tmp_path / "train.arrow", "causal", 5)
    batch = Collate("causal", 5, False)([rows[BLANK], rows[0]])
    assert (batch["labels"][0] == -100).all()
    assert batch["attention_mask"][0].sum() == 1
