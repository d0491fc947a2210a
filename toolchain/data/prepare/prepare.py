"""Data files → `train.jsonl`, `validation.jsonl`, `test.jsonl` and a report, all or nothing; beside
them `unlabelled.jsonl` where a classifier's teacher has texts to judge.

    prepare(Settings(inputs=(Path("faq.csv"),), out=Path("data")))

One pass over the rows: check, drop what is empty or was there before, choose the split, measure,
write. What has no label comes after all that has, in a second look at the files. What was seen is
kept as digests in a temporary database on disk, so memory does not grow with the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from common.errors import UserError
from common.files import (
    folder_made_alone,
    read_json,
    require_free_bytes,
    sha256_file,
    write_json,
    write_text,
)
from common.progress import progress_bar
from toolchain.data.prepare.formats import Example, RowFault
from toolchain.data.prepare.labels import require_every_split, require_labels, spread
from toolchain.data.prepare.measure import Measure, load_measure
from toolchain.data.prepare.readers import require_readable
from toolchain.data.prepare.seen import first_seen
from toolchain.data.prepare.sources import Sources, open_sources
from toolchain.data.prepare.split import SPLITS, UNLABELLED_FILE, Assigner, fill_empty
from toolchain.data.prepare.tally import Tally, markdown
from toolchain.data.prepare.text_identity import digest, language
from toolchain.data.prepare.variants import MOST_VARIANTS, variants

KIND = "edgeforge training data"
REPORT = "report.json"
_OWN_FILES = {REPORT, "report.md", UNLABELLED_FILE, *(f"{name}.jsonl" for name in SPLITS)}
_MOST_FAULTS = 20


@dataclass(frozen=True)
class Settings:
    """What to prepare, and how. `form`: a format's name, or `None` to see it from the columns;
    `mapping`: the format's column → the file's; `model`: whose tokenizer measures the rows;
    `variants`: texts to make of each training text that has a label."""

    inputs: tuple[Path, ...]
    out: Path
    form: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    model: Path | None = None
    max_tokens: int | None = None
    drop_long: bool = False
    variants: int = 0
    cache: Path | None = None
    trust_remote_code: bool = False


def prepare(settings: Settings, *, dry_run: bool = False) -> dict[str, Any]:
    """Write the splits into `settings.out` and return the report; a dry run only counts.

    Raises `UserError` for every fault of files, rows and settings; then nothing is written.
    """
    for path in settings.inputs:
        require_readable(path)
    if not 0 <= settings.variants <= MOST_VARIANTS:
        raise UserError(
            f"{settings.variants} variants of a text", f"give a number from 0 to {MOST_VARIANTS}"
        )
    _require_own_folder(settings)
    measure = load_measure(settings.model, settings.max_tokens, settings.trust_remote_code)
    sources = _sources(settings, measure, streaming=dry_run)
    passes = functools.partial(_Pass, settings, sources, measure)
    if dry_run:
        tally = _all_splits(settings, functools.partial(passes, None))
        return _report(settings, tally, measure)
    size_bytes = sum(path.stat().st_size for path in settings.inputs)
    require_free_bytes(settings.out.absolute().parent, 2 * size_bytes, "the prepared data")
    with folder_made_alone(settings.out) as folder:
        tally = _all_splits(settings, functools.partial(passes, folder))
        report = _report(settings, tally, measure)
        for name, split in report["splits"].items():
            split["sha256"] = sha256_file(folder / f"{name}.jsonl")
        write_text(folder / "report.md", markdown(report))
        write_json(folder / REPORT, report)
    return report


def _sources(settings: Settings, measure: Measure | None, *, streaming: bool) -> Sources:
    """The files, which go together with each other and with the settings."""
    sources = open_sources(
        settings.inputs,
        settings.form,
        settings.mapping,
        cache=settings.cache,
        streaming=streaming,
    )
    names = {form.name for form in sources.forms.values()}
    if measure and not names <= {"text", "classification"}:
        measure.require_chat_template()
    if settings.variants and not sources.labelled:
        raise UserError(
            "variants are made for a classifier, and the rows have no labels",
            "leave them out, or give rows with text and label",
        )
    return sources


def _all_splits(settings: Settings, a_pass: Callable[[Assigner], _Pass]) -> Tally:
    """One pass; further ones where a wanted split of a small file came out empty, or train without
    a label."""
    assigner = Assigner(settings.ratios, settings.seed)
    tally = a_pass(assigner).run()
    if not tally.kept and tally.unlabelled:
        raise UserError(
            "no row has a label", "label some rows; or prepare them as plain text: --format text"
        )
    if not tally.kept:
        raise UserError(
            f"no row is left of {tally.rows}: {tally.empty} empty, {tally.duplicates} duplicates, "
            f"{tally.dropped_long} too long",
            "give rows with a prompt and an answer, or with text",
        )
    if labels := tally.labels(settings.ratios):
        require_labels(labels, tally.kept)
        return _with_every_label(settings, a_pass, assigner, tally)
    prompts = {name: split.prompts for name, split in tally.splits.items()}
    counts = {name: split.rows for name, split in tally.splits.items()}
    filled = fill_empty(assigner, prompts, counts)
    return a_pass(filled).run() if filled else tally


def _with_every_label(
    settings: Settings, a_pass: Callable[[Assigner], _Pass], assigner: Assigner, tally: Tally
) -> Tally:
    """Passes until train has every label."""
    while moved := spread(
        assigner,
        {
            label: {name: s.label_prompts.get(label, []) for name, s in tally.splits.items()}
            for label in tally.labels(settings.ratios)
        },
    ):
        assigner = moved
        tally = a_pass(assigner).run()
    wanted = zip(SPLITS, settings.ratios, strict=True)
    require_every_split({name: tally.splits[name].rows for name, share in wanted if share > 0})
    return tally


class _Pass:
    """Reads every file once."""

    def __init__(
        self,
        settings: Settings,
        sources: Sources,
        measure: Measure | None,
        folder: Path | None,
        assigner: Assigner,
    ) -> None:
        self.settings = settings
        self.sources = sources
        self.assigner = assigner
        self.measure = measure
        self.folder = folder
        self.tally = Tally()
        self.faults: list[str] = []

    def run(self) -> Tally:
        """Count, and write where there is a folder. Raises `UserError` naming the faulty rows."""
        with contextlib.ExitStack() as stack:
            outputs = {name: stack.enter_context(f) for name, f in self._outputs()}
            self.seen = stack.enter_context(first_seen())
            bar = stack.enter_context(progress_bar("data", unit="row"))
            for path in self.settings.inputs:
                for where, example in self._examples(path):
                    bar.update(1)
                    self._place(where, example, outputs)
            self._raise_faults()
            if self.sources.labelled and (self.tally.unlabelled or self.settings.variants):
                self._write_unlabelled(stack)
        return self.tally

    def _outputs(self) -> Iterator[tuple[str, IO[str]]]:
        if self.folder is None:
            return
        for name, share in zip(SPLITS, self.settings.ratios, strict=True):
            if share > 0:
                path = self.folder / f"{name}.jsonl"
                yield name, path.open("w", encoding="utf-8", newline="\n")

    def _examples(self, path: Path) -> Iterator[tuple[str, Example]]:
        """The examples of a file that are for a split; others are counted, faulty rows noted."""
        rows = 0
        for where, example in self.sources.examples(path):
            rows += 1
            if isinstance(example, RowFault):
                self._note(f"{where}: {example}")
            elif example is None:
                self.tally.empty += 1
            elif self._is_unlabelled(example):
                self.tally.unlabelled += 1
            else:
                yield where, example
        form = self.sources.forms[path].name
        self.tally.rows += rows
        self.tally.files.append({"name": path.name, "format": form, "rows": rows})

    def _write_unlabelled(self, stack: contextlib.ExitStack) -> None:
        """What has no label: texts that came so, and variants of training texts; none of them
        stands in a split or came before."""
        output = None
        if self.folder is not None:
            path = self.folder / UNLABELLED_FILE
            output = stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
        self.tally.unlabelled = 0  # of them only new ones count
        for path in self.settings.inputs:
            for _, example in self.sources.examples(path):
                if not isinstance(example, Example):
                    continue
                for one in self._without_label(example):
                    if self.seen(digest(one.parts()), "") is not None:
                        self.tally.duplicates += one is example
                        continue
                    self.tally.unlabelled += one is example
                    self.tally.variants += one is not example
                    if output:
                        output.write(json.dumps(one.record(), ensure_ascii=False) + "\n")

    def _without_label(self, example: Example) -> Iterator[Example]:
        if self._is_unlabelled(example):
            yield example
        elif self.assigner.split_of(digest([example.prompt()])) == SPLITS[0]:
            for text in variants(example.prompt(), self.settings.variants, self.settings.seed):
                yield dataclasses.replace(example, text=text, label=None)

    def _is_unlabelled(self, example: Example) -> bool:
        return self.sources.labelled and example.label is None

    def _place(self, where: str, example: Example, outputs: Mapping[str, IO[str]]) -> None:
        if self._was_seen(where, example):
            return
        encoded = None
        if self.measure:
            too_long, fault, encoded = self.measure.encode(example)
            if too_long and self.settings.drop_long:
                self.tally.dropped_long += 1
                return
            if fault:
                self._note(f"{where}: {fault}")
                return
        prompt = digest([example.prompt()])
        name = self.assigner.split_of(prompt)
        split = self.tally.splits[name]
        split.add(prompt, language(example.prompt()), example.label)
        if encoded:
            split.tokens[encoded.tokens] += 1
            split.truncated += encoded.truncated
        if outputs:
            outputs[name].write(json.dumps(example.record(), ensure_ascii=False) + "\n")

    def _was_seen(self, where: str, example: Example) -> bool:
        """Whether the example was there before; counts it as duplicate, or as conflicting when it
        had another label then."""
        label = example.label or ""
        first = self.seen(digest(example.parts()), label)
        if first is None:
            return False
        if first == label:
            self.tally.duplicates += 1
            return True
        self.tally.conflicting += 1
        if len(self.tally.conflicts) < _MOST_FAULTS:
            self.tally.conflicts.append(f"{Path(where).name}: '{label}' here, '{first}' before")
        return True

    def _note(self, fault: str) -> None:
        self.faults.append(fault)
        if len(self.faults) >= _MOST_FAULTS:
            self._raise_faults()

    def _raise_faults(self) -> None:
        if not self.faults:
            return
        count = len(self.faults)
        several = f"{count} rows have faults" if count > 1 else "a row has a fault"
        mend = "mend the rows; nothing was written"
        if any("the context" in fault for fault in self.faults):
            mend += "; too long ones can also be left out: --drop-long"
        more = ", and there may be more" if count >= _MOST_FAULTS else ""
        raise UserError(several + more, mend, details=self.faults)


def _report(settings: Settings, tally: Tally, measure: Measure | None) -> dict[str, Any]:
    report = tally.report(settings.ratios)
    for entry, path in zip(report["inputs"], settings.inputs, strict=True):
        entry |= {"size_bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return {
        "kind": KIND,
        "seed": settings.seed,
        "mapping": dict(settings.mapping),
        "tokens": measure.facts() if measure else None,
        **report,
    }


def _require_own_folder(settings: Settings) -> None:
    """The folder is replaced as a whole: it must be new, empty, or made by this command."""
    out = settings.out.absolute()
    inside = next((p for p in settings.inputs if p.resolve().is_relative_to(out.resolve())), None)
    if inside is not None:
        raise UserError(f"{inside} lies in {settings.out}, which is replaced", "give another --out")
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{settings.out} is a file", "give a folder: --out DIR")
    found = {path.name for path in out.iterdir()}
    own = REPORT in found and found <= _OWN_FILES
    if found and not (own and _kind(out / REPORT) == KIND):
        raise UserError(
            f"{settings.out} has files that are not of prepared data: "
            f"{', '.join(sorted(found - _OWN_FILES)[:3]) or REPORT}",
            "give a new folder: --out DIR",
        )


def _kind(path: Path) -> object:
    report = read_json(path)
    return report.get("kind") if isinstance(report, dict) else None
