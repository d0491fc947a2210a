"""What a cache will hold, settled before the teacher reads a row; all that can be refused without
it is refused here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import require_free_bytes, sha256_file, sha256_json
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.compress.distill.cache.facts import PLAN, SPLITS, Facts, Split, SplitRows, read_facts
from toolchain.compress.distill.cache.job import ROWS_FOLDER, CacheJob, read_job
from toolchain.compress.distill.cache.settings import TeacherCache
from toolchain.compress.distill.cache.write import FILES
from toolchain.compress.distill.settings import Distill
from toolchain.data.prepare.split import UNLABELLED_FILE
from toolchain.train.encoded import DataFacts, SplitFacts


def vocabulary_digest(tokenizer: Any) -> str:
    """Identity of the tokens and their ids."""
    return sha256_json(tokenizer.get_vocab())


def settle(
    teacher: Artifact,
    student: Path,
    data: Path,
    settings: TeacherCache,
    folder: Path,
    say: Callable[[str], None],
    *,
    part: tuple[int, int] = (0, 1),
    trust_remote_code: bool = False,
) -> CacheJob:
    """The job, its rows encoded as the student's training encodes them. `part` is which share of
    how many this run writes. Raises `UserError` when teacher, student and data do not go together,
    or the folder holds another cache."""
    from toolchain.compress.distill.pair import require_pair
    from toolchain.hf import load_tokenizer
    from toolchain.train.encoded import data_kind, encode_data
    from toolchain.train.examples import labels_of
    from toolchain.train.network import computes_in_bf16
    from toolchain.train.outline import max_tokens_of, pad_token_of

    kind = data_kind(data)
    labels = labels_of(data / "train.jsonl") if kind == "classification" else ()
    require_pair(
        student, teacher.path, kind, labels, Distill(), trust_remote_code=trust_remote_code
    )
    tokenizer = load_tokenizer(student, trust_remote_code=trust_remote_code)
    wanted = settings.rows
    limit = max_tokens_of(student, tokenizer, wanted)
    _require_context(teacher, limit)
    vocabulary = vocabulary_digest(tokenizer)
    rows = folder / _rows_name(data, vocabulary, tokenizer.chat_template, settings, limit, part)
    rows.mkdir(parents=True, exist_ok=True)
    found = encode_data(data, rows, tokenizer, wanted, limit, unlabelled=True)
    vocab = len(labels) or _shared_vocab(student, teacher.path)
    facts = Facts(
        teacher=teacher.digest,
        teacher_parameters=inspect(teacher.path).parameters,
        vocabulary=vocabulary,
        kind=kind,
        labels=labels,
        splits={name: _split(found, name, rows / FILES[name]) for name in SPLITS},
        max_tokens=found.max_tokens,
        packing=settings.packing,
        loss_on=settings.loss_on,
        quantization=settings.quantization,
        bf16=computes_in_bf16(wanted),
        vocab=vocab,
        top_k=vocab if labels else min(settings.top_k, vocab),
        temperatures=settings.temperatures,
        part_rows=settings.part_rows,
        batch_size=settings.batch_size,
    )
    threads = _threads(folder, facts, settings.processes)
    _say_size(facts, folder, say)
    return CacheJob(
        facts=facts,
        model=teacher.path.absolute(),
        folder=folder.absolute(),
        rows=rows.absolute(),
        pad_token_id=pad_token_of(tokenizer),
        threads=threads,
        share=part[0],
        shares=part[1],
        trust_remote_code=trust_remote_code,
    )


def _rows_name(
    data: Path,
    vocabulary: str,
    template: str | None,
    settings: TeacherCache,
    limit: int,
    part: tuple[int, int],
) -> str:
    """Encoded rows are taken up again for the same inputs alone; machines that share the folder
    have their own."""
    files = [*(data / f"{split}.jsonl" for split in SPLITS), data / UNLABELLED_FILE]
    inputs = [
        *(sha256_file(path) for path in files if path.is_file()),
        *(vocabulary, template, settings.packing, settings.loss_on, limit),
    ]
    return f"{ROWS_FOLDER}-{part[0]}-{sha256_json(inputs)[:16]}"


def _split(found: DataFacts, name: Split, path: Path) -> SplitRows:
    facts: SplitFacts = getattr(found, name)
    return SplitRows(digest=sha256_file(path), rows=facts.rows, places=facts.learned)


def _shared_vocab(student: Path, teacher: Path) -> int:
    """Logits that both have: one's table may be padded further."""
    sizes = [inspect(one).vocab_size for one in (student, teacher)]
    return min(size for size in sizes if size is not None)


def _require_context(teacher: Artifact, limit: int) -> None:
    context = inspect(teacher.path).context_tokens
    if context is not None and limit > context:
        raise UserError(
            f"rows of {limit} tokens exceed the teacher's context: {context} tokens",
            f"set max_tokens to at most {context}, here and in the distillation",
        )


def _threads(folder: Path, facts: Facts, processes: int) -> int:
    """Threads of a process: those that an earlier run had, else its share of the cores. Raises
    `UserError` when the folder is another cache's."""
    import torch

    there = read_facts(folder)
    if there is not None and there.key != facts.key:
        changed = [
            name for name in Facts.model_fields if getattr(there, name) != getattr(facts, name)
        ]
        raise UserError(
            f"{folder} holds a cache with another {', '.join(changed)}",
            "choose another --out, or remove the folder",
        )
    if (folder / PLAN).is_file():
        return read_job(folder / PLAN).threads
    cores: int = torch.get_num_threads()
    return max(1, cores // processes)


def _say_size(facts: Facts, folder: Path, say: Callable[[str], None]) -> None:
    places = sum(split.places for split in facts.splits.values())
    size_bytes = places * facts.record.bytes
    say(
        f"teacher cache: {places:,} places of {facts.record.bytes} bytes "
        f"({size_bytes / 1e6:.1f} MB), top {facts.top_k} of {facts.vocab:,}"
    )
    there = sum(path.stat().st_size for path in folder.glob("*.part"))
    require_free_bytes(folder, max(0, size_bytes - there), "the teacher cache")
