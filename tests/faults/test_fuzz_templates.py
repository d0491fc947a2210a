"""Damaged and hostile chat templates, against everything that renders them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fuzz_mutators import damaged_json
from fuzz_sandbox import Silent, each, run_cases
from fuzz_templates import GOOD, hostile_template

from toolchain.data.chat import render_chat
from toolchain.data.chat_format import chat_format

CASES, QUICK = 10_000, 250
pytestmark = pytest.mark.timeout(7200)  # each case has its own
TALK = [{"role": "user", "content": "on"}, {"role": "assistant", "content": "done {{ x }}"}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
MOST_CHARACTERS = 100_000_000


# What renders templates under limits.
pytest.importorskip("toolchain.data.templates")


def test_damaged_chat_templates(tmp_path: Path, whole: bool, proven: Any) -> None:
    cases = range(CASES if whole else QUICK)
    started = time.monotonic()
    outcome = run_cases(cases, _read, tmp_path, processes_allowed=True)
    if outcome.faults:
        pytest.fail(outcome.told(), pytrace=False)
    assert outcome.counts["refused"] > len(cases) / 4
    proven("4 hostile files", "chat template", len(cases), "mutations", time.monotonic() - started)


def _read(case: int, work: Path) -> None:
    random = Random(f"template {case}")
    template = hostile_template(random)
    if case % 3 == 0:
        (work / "chat_template.jinja").write_text(template, "utf-8", errors="replace")
    config = {"chat_template": template, "bos_token": "<s>", "eos_token": {"content": "</s>"}}
    if case % 10 == 0:
        config["chat_template"] = [{"name": "default", "template": random.choice(GOOD)}]
        (work / "tokenizer_config.json").write_bytes(damaged_json(random, config))
    else:
        (work / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    form = chat_format(work)
    if form is None:
        return

    def render() -> None:
        text = render_chat(form.template, TALK, bos_token=form.bos_token, eos_token=form.eos_token)
        if len(text) > MOST_CHARACTERS:
            raise Silent(f"{len(text)} characters were rendered")

    each(render, lambda: render_chat(form.template, TALK[:1], **TOKENS), all_must=True)
