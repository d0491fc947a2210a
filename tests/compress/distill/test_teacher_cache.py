"""The cache: exact records, the same bytes however it is written, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distillations import config_of, distil
from tiny_models import tiny_bert, tiny_llama
from train_runs import chat_rows, class_rows, log_of, write_data

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.compress.distill import stage
from toolchain.compress.distill.cache import write
from toolchain.compress.distill.cache.facts import Manifest, cache_input
from toolchain.compress.distill.cache.record import RecordFormat
from toolchain.compress.distill.cache.run import join, write_cache
from toolchain.compress.distill.cache.settings import TeacherCache
from toolchain.compress.distill.cache.settle import settle
from toolchain.compress.distill.cache.store import open_store, require_intact
from toolchain.compress.distill.cache.teacher import CachedTeacher
from toolchain.compress.distill.losses import distillation_loss
from toolchain.compress.distill.settings import Distill
from toolchain.pipeline import Workspace, run_stage
from toolchain.train.settings import Finetune

pytestmark = pytest.mark.usefixtures("in_process")


def _write(
    teacher: Path, data: Path, folder: Path, part: tuple[int, int] = (0, 1), **settings: Any
) -> Manifest | None:
    small = {"top_k": 8, "batch_size": 2, "part_rows": 4, **settings}
    source, _ = open_checkpoint(teacher, None)
    wanted = TeacherCache(**small)
    job = settle(source, teacher, data, wanted, folder, lambda _line: None, part=part)
    return write_cache(job, wanted.processes, wanted.accelerate_config)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture(scope="module")
def cache(teacher: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches") / "cache"
    assert _write(teacher, texts, folder, temperatures=(1.0, 2.0)) is not None
    return folder


@pytest.mark.parametrize(("vocab", "top_k"), [(50, 4), (50, 50), (70_000, 32)])
def test_a_record_is_the_softened_distribution_in_k_and_one_parts(vocab: int, top_k: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(20, vocab) * 3
    record = RecordFormat(top_k, vocab, (1.0, 2.0, 5.0))
    assert record.bytes <= 300
    stored = record.encode(logits)
    for temperature in record.temperatures:
        ids, log_probs, rest = record.decode(stored, temperature)
        exact = torch.log_softmax(logits.double() / temperature, -1)
        top = exact.gather(-1, torch.from_numpy(ids))
        assert float((top - torch.from_numpy(log_probs)).abs().max()) < 1e-3
        left = 1 - top.exp().sum(-1).numpy()
        np.testing.assert_allclose(np.exp(rest), left, atol=3e-4)
        np.testing.assert_allclose(np.exp(log_probs).sum(-1) + np.exp(rest), 1, atol=1e-5)


def test_a_record_of_infinite_logits_is_refused() -> None:
    with pytest.raises(UserError, match="not numbers"):
        RecordFormat(2, 4, (1.0,)).encode(torch.tensor([[0.0, float("inf"), 1.0, 2.0]]))


def test_it_is_read_by_row_in_any_order(cache: Path, teacher: Path, texts: Path) -> None:
    """What is read for a row is what the teacher says of that row, also behind the first part and
    in the validation split."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from toolchain.train.examples import read_rows

    store = open_store(cache)
    network = AutoModelForCausalLM.from_pretrained(teacher).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    rows = [row["text"] for split in ("train", "validation")
            for _, row in read_rows(texts / f"{split}.jsonl")]  # fmt: skip
    order = [13, 5, -1, 0]
    stored = store.read(order)
    wanted = []
    for number in order:
        if number >= 0:
            ids = tokenizer(rows[number], return_tensors="pt")["input_ids"]
            with torch.no_grad():
                wanted.append(network(ids).logits[0, :-1])
    ids, log_probs, _ = store.facts.record.decode(stored, 1.0)
    exact = torch.cat(wanted).double().log_softmax(-1)
    top = exact.gather(-1, torch.from_numpy(ids))
    assert len(stored) == len(exact)
    assert float((top - torch.from_numpy(log_probs)).abs().max()) < 1e-3
    assert float((top - exact.topk(8).values).abs().max()) < 1e-3


def test_a_killed_run_goes_on_and_shares_join_to_the_same_bytes(
    cache: Path, teacher: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., None] = write._write_part
    calls = []

    def dies(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(write, "_write_part", dies)
    with pytest.raises(KeyboardInterrupt):
        _write(teacher, texts, tmp_path / "killed", temperatures=(1.0, 2.0))
    with pytest.raises(UserError, match="not complete: 2 of 4 parts"):
        require_intact(tmp_path / "killed")
    _write(teacher, texts, tmp_path / "killed", temperatures=(1.0, 2.0))
    assert len(calls) == 5  # two done, one killed, two done after
    assert _bytes(tmp_path / "killed") == _bytes(cache)

    shares = [tmp_path / f"share-{n}" for n in range(3)]
    for number, folder in enumerate(shares):
        assert _write(teacher, texts, folder, (number, 3), temperatures=(1.0, 2.0)) is None
    with pytest.raises(UserError, match="lacks 1 of 4 parts: train-00002"):
        join(tmp_path / "joined", shares[:2])
    join(tmp_path / "joined", shares)
    joined = _bytes(tmp_path / "joined")
    joined.pop(".lock")
    assert joined == _bytes(cache)


def test_a_share_of_another_cache_is_not_joined(
    cache: Path, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    _write(teacher, texts, tmp_path / "other", (0, 2), top_k=4)
    with pytest.raises(UserError, match="another top_k, temperatures"):
        join(tmp_path / "out", [cache, tmp_path / "other"])
    with pytest.raises(UserError, match="holds a cache with another top_k"):
        _write(teacher, texts, shutil.copytree(cache, tmp_path / "copy"), top_k=4,
               temperatures=(1.0, 2.0))  # fmt: skip


def test_a_damaged_part_is_named_and_written_again(
    cache: Path, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(cache, tmp_path / "cache")
    part = folder / "train-00001.part"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"train-00001.part is cut: it has"):
        open_store(folder)
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"train-00001.part is damaged"):
        require_intact(folder)
    _write(teacher, texts, folder, temperatures=(1.0, 2.0))
    assert _bytes(folder) == _bytes(cache)


def _from_cache(student: Path, folder: Path, teacher: Path, data: Path, **settings: Any) -> Any:
    config = config_of(teacher, data, **settings)
    config = config.model_copy(update={"cache": cache_input(folder)})
    source, _ = open_checkpoint(student, None)
    return source, config


def _same_losses(cached: Artifact, live: Artifact) -> None:
    for mine, theirs in zip(log_of(cached), log_of(live), strict=True):
        for name in {"loss", "loss_soft", "eval_loss"} & theirs.keys():
            assert mine[name] == pytest.approx(theirs[name], rel=2e-3), name


def test_training_from_all_logits_is_training_with_the_teacher(
    student: Path, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    _write(teacher, texts, folder, top_k=4096, temperatures=(2.0,))
    wanted = {"temperature": 2.0, "epochs": 1}
    source, config = _from_cache(student, folder, teacher, texts, **wanted)
    cached = run_stage(stage, source, config, Workspace(tmp_path / "c"), lambda _line: None)
    live = distil(student, teacher, texts, tmp_path / "l", **wanted)
    _same_losses(cached, live)
    assert cached.measurements["teacher_parameters"] == live.measurements["teacher_parameters"]


def test_few_logits_give_the_loss_of_their_parts(cache: Path, student: Path, teacher: Path) -> None:
    """Against float64: the divergence of the top 8 and the rest at temperature 2, which is at most
    that of all tokens."""
    from transformers import AutoModelForCausalLM

    from toolchain.compress.distill.learned import flat, learned
    from toolchain.compress.distill.teacher import LiveTeacher

    store, settings = open_store(cache), Distill(alpha=1.0, temperature=2.0)
    networks = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (teacher, student)]
    rows = write.Rows(_encoded(cache, teacher), "causal", 0)
    batch = write.Collate("causal", 0, False, numbered=True)([rows[3], rows[11]])
    places = learned(batch, "causal")
    logits = flat(networks[1](batch["input_ids"]).logits.detach())
    teachers = (CachedTeacher(store, 2.0), LiveTeacher(networks[0], "causal"))
    found, whole = (
        float(distillation_loss(logits, places.positions, places.labels, t.targets(batch),
                                settings)[0])
        for t in teachers
    )  # fmt: skip
    shares = [(one.double() / 2).softmax(-1)
              for one in (teachers[1].targets(batch).logits, logits[places.positions])]  # fmt: skip
    ids = shares[0].topk(8).indices
    p, q = (torch.cat([own.gather(-1, ids), 1 - own.gather(-1, ids).sum(-1, keepdim=True)], -1)
            for own in shares)  # fmt: skip
    assert found == pytest.approx(float(4 * (p * (p / q).log()).sum(-1).mean()), rel=2e-3)
    assert found < whole


def _encoded(cache: Path, teacher: Path) -> Path:
    from toolchain.hf import load_tokenizer
    from toolchain.train.encoded import encode_data
    from toolchain.train.job import TRAIN_FILE

    folder = cache.parent / "encoded"
    folder.mkdir(exist_ok=True)
    data = next(cache.parent.parent.glob("texts*/d"))
    encode_data(data, folder, load_tokenizer(teacher), Finetune(), 512)
    return folder / TRAIN_FILE


def test_a_cache_of_something_else_is_refused(
    cache: Path, student: Path, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    rows = write_data(tmp_path / "d", train=chat_rows(8), validation=chat_rows(3))
    other = tiny_llama(tmp_path / "other", hidden=64, ffn=96, seed=7)
    small = tiny_llama(tmp_path / "small", hidden=32, ffn=48, layers=1, heads=2, kv_heads=1,
                       vocab=300)  # fmt: skip
    cases: list[tuple[str, Path, Path, Path, dict[str, Any]]] = [
        ("of another teacher", student, other, texts, {}),
        ("of another tokenizer", small, teacher, texts, {}),
        ("of another data set", student, teacher, rows, {}),
        ("written with max_tokens 512", student, teacher, texts, {"max_tokens": 64}),
        ("written with packing False", student, teacher, texts, {"packing": True}),
        ("temperatures 1, 2, not 3", student, teacher, texts, {"temperature": 3.0}),
    ]
    for told, learns, teaches, data, settings in cases:
        source, config = _from_cache(learns, cache, teaches, data, **settings)
        with pytest.raises(UserError, match=told):
            run_stage(stage, source, config, Workspace(tmp_path / "w"), lambda _line: None)


def test_a_classifier_is_taught_by_all_its_classes(tmp_path: Path) -> None:
    labels = ("cold", "warm")
    teacher = tiny_bert(tmp_path / "teacher", labels=labels[::-1])  # its head has another order
    student = tiny_bert(tmp_path / "student", labels=labels, layers=1, seed=3)
    texts = [{"text": row["text"]} for row in class_rows(5)]
    rows = {"train": class_rows(12), "validation": class_rows(4), "unlabelled": texts}
    data = write_data(tmp_path / "d", **rows)
    made = _write(teacher, data, tmp_path / "cache", temperatures=(2.0,))
    assert made is not None and made.facts.top_k == 2
    assert made.facts.splits["train"].rows == 17
    source, config = _from_cache(student, tmp_path / "cache", teacher, data)
    cached = run_stage(stage, source, config, Workspace(tmp_path / "c"), lambda _line: None)
    live = distil(student, teacher, data, tmp_path / "l")
    _same_losses(cached, live)
    (data / "unlabelled.jsonl").unlink()
    source, config = _from_cache(student, tmp_path / "cache", teacher, data)
    with pytest.raises(UserError, match="of another data set"):
        run_stage(stage, source, config, Workspace(tmp_path / "o"), lambda _line: None)


def test_settings_that_cannot_go_together() -> None:
    with pytest.raises(ValueError, match="multiple of batch_size"):
        TeacherCache(part_rows=10, batch_size=4)
    with pytest.raises(ValueError, match=r"between 0\.1 and 100"):
        TeacherCache(temperatures=(0.0,))
    with pytest.raises(ValueError, match="leave hidden_weight or attention_weight, on_policy off"):
        Distill(cache=True, hidden_weight=1.0, on_policy=0.5)
    with pytest.raises(ValueError, match="give one"):
        Distill(cache=True, teacher_cache=Path("x"))
    for given in ("layers=4,width=512", {"layers": 4, "width": 512}):
        fresh = Distill(student=given).fresh
        assert fresh is not None and (fresh.layers, fresh.width) == (4, 512)
