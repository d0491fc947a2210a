"""Universal logit distillation: the distance of sorted probabilities, and borders in texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from distillations import distil
from tiny_models import tiny_bert, tiny_llama
from train_runs import chat_rows, class_rows, log_of, write_data

from common.errors import UserError
from toolchain.compress.distill.losses import Unaligned, distillation_loss
from toolchain.compress.distill.settings import Distill
from toolchain.compress.distill.universal.align import aligned, borders, message_borders
from toolchain.compress.distill.universal.distance import sorted_distance
from toolchain.compress.distill.universal.rows import write_rows
from toolchain.hf import load_tokenizer
from toolchain.train.encoded import encode_data
from toolchain.train.settings import Finetune


def _reference(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """The 1-Wasserstein distance in float64: both padded, sorted, subtracted."""

    def shares(logits: np.ndarray) -> np.ndarray:
        raised = np.exp(logits / temperature - (logits / temperature).max(-1, keepdims=True))
        return raised / raised.sum(-1, keepdims=True)

    width = max(student.shape[-1], teacher.shape[-1])
    both = []
    for own in (shares(student), shares(teacher)):
        padded = np.pad(own, ((0, 0), (0, width - own.shape[-1])))
        both.append(-np.sort(-padded, axis=-1))
    return np.abs(both[0] - both[1]).sum(-1)


def test_the_distance_is_that_of_sorted_padded_probabilities() -> None:
    draw = np.random.default_rng(0)
    for own, other, temperature in ((40, 70, 1.0), (70, 40, 2.0), (50, 50, 5.0)):
        student, teacher = draw.normal(0, 3, (6, own)), draw.normal(0, 3, (6, other))
        found = sorted_distance(torch.tensor(student), torch.tensor(teacher), temperature)
        np.testing.assert_allclose(
            found.numpy(), _reference(student, teacher, temperature), atol=1e-12
        )


def test_it_falls_along_its_gradient_and_is_zero_for_a_permutation() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(8, 30, dtype=torch.float64)
    shuffled = teacher[:, torch.randperm(30)]
    assert float(sorted_distance(shuffled, teacher, 2.0).abs().max()) < 1e-12
    student = torch.randn(8, 20, dtype=torch.float64, requires_grad=True)
    before = sorted_distance(student, teacher, 2.0).sum()
    (slope,) = torch.autograd.grad(before, student)
    after = sorted_distance(student - 0.1 * slope, teacher, 2.0).sum()
    assert float(after.detach()) < float(before.detach())


def test_borders_are_where_tokenizers_agree_on_what_was_read() -> None:
    text = "turn on  the lamp"
    with_space = [(0, 4), (4, 7), (7, 8), (8, 12), (12, 17)]  # the space before a word is its own
    trimmed = [(0, 0), (0, 4), (5, 7), (9, 12), (13, 15), (15, 17)]  # left out; one special token
    first, second = borders(with_space, text), borders(trimmed, text)
    assert first == {0: 0, 4: 1, 7: 2, 12: 4, 17: 5}
    assert second == {0: 1, 4: 2, 7: 3, 12: 4, 15: 5, 17: 6}
    assert sorted(first.keys() & second.keys()) == [0, 4, 7, 12, 17]


def test_messages_are_aligned_whatever_their_templates_write_between() -> None:
    own_text, other_text = "<u>hi there</u>\n<a>on it</a>", "[INST] hi there [/INST] on it"
    own = [(0, 3), (3, 5), (5, 11), (11, 15), (15, 16), (16, 19), (19, 21), (21, 24), (24, 28)]
    other = [(0, 6), (6, 9), (9, 12), (12, 15), (15, 23), (23, 26), (26, 29)]
    messages = ("hi there", "on it")
    mine = message_borders(own, own_text, messages)
    theirs = message_borders(other, other_text, messages)
    assert mine == {(0, 0): 1, (0, 2): 2, (0, 8): 3, (1, 0): 6, (1, 2): 7, (1, 5): 8}
    assert theirs == {(0, 0): 1, (0, 2): 2, (0, 5): 3, (0, 8): 4, (1, 0): 5, (1, 2): 6, (1, 5): 7}
    assert aligned(mine, theirs, [5, 6, 7, 8], len(other)) == [-1, 4, 5, 6]
    assert aligned(mine, theirs, [6, 7, 8], 6) == [4, 5, -1]


def test_the_loss_counts_where_there_is_a_target_and_labels_elsewhere() -> None:
    torch.manual_seed(1)
    logits, teacher = torch.randn(5, 20, dtype=torch.float64), torch.randn(2, 30).double()
    positions, labels = torch.tensor([0, 2, 3, 4]), torch.tensor([1, 2, 3, 4])
    targets = Unaligned(teacher, torch.tensor([-1, 0, 1, -1]))
    settings = Distill(alpha=0.25, temperature=2.0, universal=True)
    found, parts = distillation_loss(logits, positions, labels, targets, settings)
    apart = sorted_distance(logits[[2, 3]], teacher, 2.0)
    hard = torch.nn.functional.cross_entropy(logits[positions], labels, reduction="none")
    wanted = hard[[0, 3]].sum() + 0.75 * hard[[1, 2]].sum() + 0.25 * apart.sum()
    torch.testing.assert_close(found, wanted / 4)
    torch.testing.assert_close(parts.soft, apart.sum())


@pytest.mark.usefixtures("in_process")
def test_other_tokenizers_are_refused_or_compared_where_texts_agree(
    student: Path, texts: Path, tmp_path: Path
) -> None:
    teacher = tiny_llama(tmp_path / "teacher", hidden=64, ffn=96, seed=1, vocab=270)
    with pytest.raises(UserError, match="different vocabularies") as refused:
        distil(student, teacher, texts, tmp_path / "w", max_steps=1)
    assert "universal: true" in refused.value.mend
    made = distil(student, teacher, texts, tmp_path / "w", universal=True, max_steps=4, alpha=0.9)
    losses = [entry["loss_soft"] for entry in log_of(made) if "loss_soft" in entry]
    assert len(losses) == 4 and all(0 < loss < 2 for loss in losses)


def test_rows_of_the_teacher_are_where_the_student_reads_the_same(
    student: Path, tmp_path: Path
) -> None:
    """With one tokenizer on both sides each place is compared with itself; with another, wherever
    both have a token border."""
    from datasets import Dataset

    data = write_data(tmp_path / "d", train=chat_rows(6), validation=chat_rows(2))
    other = tiny_llama(tmp_path / "other", hidden=32, ffn=32, vocab=270)
    own, theirs = load_tokenizer(student), load_tokenizer(other)
    facts = encode_data(data, tmp_path, own, Finetune(), 256)
    same = write_rows(data, tmp_path, "causal", (own, own), 256)
    learned = facts.train.learned + facts.validation.learned
    assert same[0] == learned and same[1] > 0.75 * learned  # a space that is a token of its own
    rows = [Dataset.from_file(str(tmp_path / f"{name}train.arrow")) for name in ("", "teacher-")]
    for mine, taught in zip(*rows, strict=True):
        places = [i for i, label in enumerate(mine["labels"]) if i and label != -100]
        assert all(t in (-1, p - 1) for p, t in zip(places, taught["index"], strict=True))
    places, compared = write_rows(data, tmp_path, "causal", (own, theirs), 256)
    assert places == learned and 0.3 * learned < compared <= learned


def test_a_classifier_s_texts_without_a_label_are_compared_too(tmp_path: Path) -> None:
    rows = {"train": class_rows(6), "validation": class_rows(2), "unlabelled": [{"text": "cold"}]}
    data = write_data(tmp_path / "d", **rows)
    tokenizer = load_tokenizer(tiny_bert(tmp_path / "bert"))
    facts = encode_data(data, tmp_path, tokenizer, Finetune(), 64, unlabelled=True)
    assert facts.train.rows == 7
    assert write_rows(data, tmp_path, "classification", (tokenizer, tokenizer), 64) == (9, 9)
