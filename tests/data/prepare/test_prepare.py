"""Real files of every format and kind, in Chinese and English, through to the split files."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain.data.prepare.prepare import Settings, prepare
from toolchain.data.prepare.readers import read_rows
from toolchain.data.prepare.sample import sample
from toolchain.data.prepare.text_identity import normalise

ROOT = Path(__file__).resolve().parents[3]
PAIRS = [
    ("What, exactly, is \"IPv6\"?\nExplain.", "A protocol; see RFC 8200,\nsection 3."),
    ("把客厅的灯打开", "好的，\n已打开。"),
    ("NA", "007"),
    ("When?", "2020-01-02"),
    ("null", "1e5"),
    ("Who said \u2028 this?", "an  editor\twith tabs"),
]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as the file's suffix says."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as stream:
            separator = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(stream, list(rows[0]), delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
    return path


def settings(path: Path, **changes: Any) -> Settings:
    folder = path.parent
    return Settings(**{"inputs": (path,), "out": folder / "out", "cache": folder / "c", **changes})


def written(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        path.stem: [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
        for path in out.glob("*.jsonl")
    }


def all_rows(out: Path) -> list[dict[str, Any]]:
    return [row for rows in written(out).values() for row in rows]


def talk(question: str, answer: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    texts = (question, answer)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_kind_of_file_gives_the_same_texts_to_the_letter(tmp_path: Path, suffix: str) -> None:
    rows = [{"id": n, "question": q, "answer": a} for n, (q, a) in enumerate(PAIRS)]
    path = write(tmp_path / f"a b [1]{suffix}", rows)
    report = prepare(settings(path, ratios=(1.0, 0.0, 0.0)))
    assert written(tmp_path / "out") == {"train": [talk(q, a) for q, a in PAIRS]}
    assert report["splits"]["train"]["languages"] == {"en": 5, "zh": 1, "other": 0}
    assert report == json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("form", ["alpaca", "qa", "chat", "text", "classification"])
def test_what_sample_writes_prepare_reads(tmp_path: Path, form: str, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    rows = sample(form, 30, path)
    report = prepare(settings(path))
    assert report["inputs"][0]["format"] == form
    assert report["rows_kept"] == 30
    found = {json.dumps(row, sort_keys=True) for row in all_rows(tmp_path / "out")}
    if form in ("chat", "text", "classification"):
        assert found == {json.dumps(row, sort_keys=True) for row in rows}
    elif form == "qa":
        assert found == {
            json.dumps(talk(row["question"], row["answer"]), sort_keys=True) for row in rows
        }
    else:
        wanted = [talk(f"{r['instruction']}\n\n{r['input']}", r["output"]) for r in rows]
        assert found == {json.dumps(row, sort_keys=True) for row in wanted}
    spoken = [split["languages"] for split in report["splits"].values()]
    assert sum(s["en"] for s in spoken) > 0
    assert sum(s["zh"] for s in spoken) > 0


def test_alpaca_without_input_is_the_instruction_alone(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Say hi", "output": "hi"},
        {"instruction": "A", "input": " ", "output": "b"},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    prepare(settings(path, ratios=(1.0, 0.0, 0.0)))
    assert all_rows(tmp_path / "out") == [talk("Say hi", "hi"), talk("A", "b")]


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"ask": q, "reply": a} for q, a in PAIRS])
    prepare(settings(path, mapping={"question": "ask", "answer": "reply"}))
    assert len(all_rows(tmp_path / "out")) == len(PAIRS)


def test_a_column_that_comes_late_is_read(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": f"{n}" + "x" * 500, "output": "y"} for n in range(3000)
    ]
    rows.append({"instruction": "last", "input": "one", "output": "y"})
    path = write(tmp_path / "a.jsonl", rows)
    prepare(settings(path, ratios=(1.0, 0.0, 0.0)))
    assert all_rows(tmp_path / "out")[-1] == talk("last\n\none", "y")


def test_empty_rows_and_duplicates_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = [
        {"question": "a", "answer": "b"},
        {"question": " A", "answer": "b "},
        {"question": "", "answer": "b"},
        {"question": "c", "answer": None},
        {"question": "a", "answer": "another"},
    ]
    report = prepare(settings(write(tmp_path / "a.jsonl", rows), ratios=(1.0, 0.0, 0.0)))
    counts = [report[k] for k in ("rows_read", "rows_kept", "rows_empty", "rows_duplicate")]
    assert counts == [5, 2, 2, 1]
    assert all_rows(tmp_path / "out") == [talk("a", "b"), talk("a", "another")]
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "| duplicate | 1 |" in text


def test_a_prompt_is_never_in_two_splits(tmp_path: Path) -> None:
    rows = [
        {"question": f"{'Q' if n % 2 else 'q'}uestion  {n % 100}", "answer": f"answer {n}"}
        for n in range(600)
    ]
    path = write(tmp_path / "a.jsonl", rows)
    report = prepare(settings(path, ratios=(0.6, 0.2, 0.2)))
    assert report["rows_kept"] == 600
    prompts = {
        name: {normalise(row["messages"][0]["content"]) for row in rows}
        for name, rows in written(tmp_path / "out").items()
    }
    assert sum(len(found) for found in prompts.values()) == 100
    assert len(set.union(*prompts.values())) == 100
    assert all(prompts.values())


def test_the_same_run_gives_the_same_bytes_and_more_rows_leave_the_others(tmp_path: Path) -> None:
    rows = [{"text": f"document number {n}"} for n in range(300)]
    path = write(tmp_path / "a.jsonl", rows)
    first = prepare(settings(path))
    before = written(tmp_path / "out")
    assert prepare(settings(path)) == first
    assert prepare(settings(path, seed=1))["splits"] != first["splits"]
    more = write(tmp_path / "b.jsonl", [{"text": f"new {n}"} for n in range(100)] + rows)
    prepare(settings(more))
    after = written(tmp_path / "out")
    for name, kept in before.items():
        assert [row for row in after[name] if not row["text"].startswith("new")] == kept


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".json", ".csv"):
        path = write(tmp_path / f"a{suffix}", [{"text": "old"}])
        prepare(settings(path, ratios=(1.0, 0.0, 0.0)))
        write(path, [{"text": "new"}])
        os.utime(path, ns=(1, 1))
        prepare(settings(path, ratios=(1.0, 0.0, 0.0)))
        assert all_rows(tmp_path / "out") == [{"text": "new"}]


def test_rows_of_several_files_are_one_set(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [{"question": q, "answer": a} for q, a in PAIRS])
    second = write(tmp_path / "b.parquet", [talk(q, a) for q, a in PAIRS] + [talk("new", "one")])
    report = prepare(settings(first, inputs=(first, second)))
    assert [entry["format"] for entry in report["inputs"]] == ["qa", "chat"]
    assert (report["rows_kept"], report["rows_duplicate"]) == (len(PAIRS) + 1, len(PAIRS))


def test_a_dry_run_counts_the_same_and_writes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"question": q, "answer": a} for q, a in PAIRS])
    dry = prepare(settings(path), dry_run=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    real = prepare(settings(path))
    for split in real["splits"].values():
        del split["sha256"]
    assert dry == real


def test_the_cache_is_used_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    rows = [row for _, row in read_rows(path, cache=tmp_path / "c", streaming=False)]
    tables = {p: p.stat().st_mtime_ns for p in (tmp_path / "c").rglob("*.arrow")}
    assert len(tables) == 1
    assert [row for _, row in read_rows(path, cache=tmp_path / "c", streaming=False)] == rows
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "c").rglob("*.arrow")} == tables


def test_lengths_are_those_of_the_chat_template(tmp_path: Path) -> None:
    from toolchain.hf import load_tokenizer

    model = tiny_llama(tmp_path / "m", hidden=64, ffn=64)
    path = write(tmp_path / "a.jsonl", [talk("hi", "word " * n) for n in range(1, 41)])
    report = prepare(settings(path, ratios=(1.0, 0.0, 0.0), model=model, max_tokens=165))
    tokenizer = load_tokenizer(model)
    lengths = sorted(
        len(tokenizer.apply_chat_template(row["messages"], return_dict=False))
        for row in all_rows(tmp_path / "out")
    )
    found = report["splits"]["train"]["tokens"]
    assert found["min"] == lengths[0]
    assert found["max"] == lengths[-1]
    assert found["median"] == lengths[19]
    assert found["p95"] == lengths[37]
    assert found["total"] == sum(lengths)
    cut = sum(length > 165 for length in lengths)
    assert 0 < cut < 40
    assert report["splits"]["train"]["truncated"] == cut


def test_an_answer_longer_than_the_context_is_named_or_dropped(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "m", hidden=64, ffn=64)
    rows = [talk("hi", "there"), talk("more", "word " * 200), talk("long " * 100, "short")]
    path = write(tmp_path / "a.jsonl", rows)
    wanted = settings(path, ratios=(1.0, 0.0, 0.0), model=model, max_tokens=64)
    with pytest.raises(UserError) as fault:
        prepare(wanted)
    first, second = fault.value.details
    assert "line 2: the answer has" in first
    assert "the context holds 64" in first
    assert "line 3: the prompt has" in second
    assert "--drop-long" in fault.value.mend
    assert not (tmp_path / "out").exists()
    report = prepare(
        settings(path, ratios=(1.0, 0.0, 0.0), model=model, max_tokens=64, drop_long=True)
    )
    assert (report["rows_kept"], report["rows_dropped_long"]) == (1, 2)


_MEMORY = """
import sys, threading, time
from pathlib import Path
import datasets, pandas, pyarrow
from toolchain.data.prepare.prepare import Settings, prepare

def anonymous_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

peak, done = [0], threading.Event()
def watch():
    while not done.wait(0.01):
        peak[0] = max(peak[0], anonymous_kib())
start = anonymous_kib()
watcher = threading.Thread(target=watch); watcher.start()
path, out, cache, dry = sys.argv[1:]
report = prepare(Settings((Path(path),), Path(out), cache=Path(cache)), dry_run=dry == "dry")
done.set(); watcher.join()
print(report["rows_kept"], peak[0] - start)
"""


def peak_kib(folder: Path, suffix: str, count: int, mode: str) -> int:
    """What the process took for itself at most, for a file of `count` rows of 10 kB. (Pages of the
    memory-mapped table are the kernel's to drop and not counted.)"""
    folder.mkdir()
    path = folder / f"big{suffix}"
    with path.open("w", encoding="utf-8") as stream:
        stream.write("[" if suffix == ".json" else "")
        for number in range(count):
            row = json.dumps({"question": f"q {number}", "answer": "0123456789" * 1000})
            last = "]" if number == count - 1 else ", "
            stream.write(row + (last if suffix == ".json" else "\n"))
    arguments = [str(path), str(folder / "o"), str(folder / "c"), mode]
    shown = subprocess.run(
        [sys.executable, "-c", _MEMORY, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    ).stdout.split()
    assert int(shown[0]) == count
    return int(shown[1])


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "mode"), [(".jsonl", "write"), (".json", "dry")])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str, mode: str) -> None:
    small = peak_kib(tmp_path / "small", suffix, 3_000, mode)
    large = peak_kib(tmp_path / "large", suffix, 12_000, mode)
    assert large - small < 45_000  # half of the 90 MB by which the files differ
