"""What Ollama renders and answers, held against Hugging Face and llama.cpp.

checks = [*rendered_checks(client, name, facts), *request_checks(client, name, facts),
          *recorded_checks(client, name, facts)]
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from common.progress import progress_bar
from runtimes.ollama import JINJA_VERSION, Client
from toolchain.data.chat import ChatTemplateError
from toolchain.export.ollama.checks import FAILED, NOTED, PASSED, Check, Facts, check
from toolchain.export.ollama.conversations import ALL

# Ollama has a llama.cpp of its own revision, whose kernels may round differently: an answer may
# part from the recorded one after a while. As in the smoke test, half of it must agree.
MIN_AGREEING_PREFIX = 0.5
# As in the smoke test: where rounding differs, one answer of so many may run on.
_ANSWERS_PER_RUN_ON = 10
_SHOWN_CHARACTERS = 200
Messages = Sequence[Mapping[str, str]]


def rendered_checks(client: Client, name: str, facts: Facts) -> list[Check]:
    """The prompts that Ollama renders, character by character Hugging Face's: the recorded ones,
    conversations of every kind (one turn and several, system messages, blanks, quotes, Chinese),
    and a request to generate."""
    recorded = [(str(row.get("id", "prompt")), _messages(row)) for row in facts.rows]
    faults = []
    for row, (kind, messages) in zip(facts.rows, recorded, strict=True):
        expected = _expected_of_row(row, messages, facts)
        faults += _difference(kind, client.render(name, messages), expected, facts)
    note = faults[0] if faults else f"{len(recorded)} recorded ones equal"
    checks = [check("rendered prompt", not faults, note)]
    if facts.form is not None:
        checks.append(_conversations_check(client, name, facts))
    simple = _simple_row(facts)
    if simple is not None:
        checks.append(_generate_render_check(client, name, simple, facts))
    return checks


def request_checks(client: Client, name: str, facts: Facts) -> list[Check]:
    """One chat and one generate request as an application sends them, greedy: each ends by itself
    and answers as the other, as both give the same prompt."""
    row = _simple_row(facts)
    if row is None:
        return [Check("chat answer", NOTED, "every recorded prompt has several turns")]
    options = _options(row)
    messages = _messages(row)
    chat = client.chat(name, messages, options=options)
    prompt, system = _turn(messages)
    generated = client.generate(name, prompt, system=system, options=options)
    said = str((chat.get("message") or {}).get("content", "")).strip()
    text = str(generated.get("response", "")).strip()
    checks = [
        _answer_check("chat answer", said, chat, row, facts),
        _answer_check("generate answer", text, generated, row, facts),
    ]
    if said != text:
        note = f"chat says {said[:80]!r}, generate {text[:80]!r}"
        checks.append(Check("same answer to both", FAILED, note))
    return checks


def recorded_checks(client: Client, name: str, facts: Facts) -> list[Check]:
    """Every recorded prompt, given as it is: token count, end and greedy answer against what
    llama.cpp gave when the bundle was made."""
    replies = []
    with progress_bar("prompts", unit="", total=len(facts.rows)) as bar:
        for row in facts.rows:
            prompt = str(row["prompt"]).removeprefix(facts.bos)
            replies.append(client.generate(name, prompt, raw=True, options=_options(row)))
            bar.update(1)
    return [
        _count_check(replies, facts, client.version()),
        _stop_check(replies, facts),
        _greedy_check(replies, facts),
    ]


def agreeing(one: str, other: str) -> float:
    """Share of the longer text over which both agree from the start."""
    longer = max(len(one), len(other))
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return (min(len(one), len(other)) if same is None else same) / longer if longer else 1.0


def _conversations_check(client: Client, name: str, facts: Facts) -> Check:
    faults, compared = [], 0
    for one in ALL:
        try:
            expected = facts.expected_prompt(one.messages)
        except ChatTemplateError:  # many templates refuse a system message
            continue
        compared += 1
        faults += _difference(one.kind, client.render(name, one.messages), expected, facts)
    left = f" ({len(ALL) - compared} that the template refuses left out)"
    note = f"{compared} kinds equal" + (left if compared < len(ALL) else "")
    return check("rendered conversations", not faults, faults[0] if faults else note)


def _generate_render_check(
    client: Client, name: str, row: Mapping[str, Any], facts: Facts
) -> Check:
    messages = _messages(row)
    expected = _expected_of_row(row, messages, facts)
    got = client.render_generate(name, *_turn(messages))
    faults = _difference("generate", got, expected, facts)
    return check("rendered by generate", not faults, faults[0] if faults else "equal")


def _expected_of_row(row: Mapping[str, Any], messages: Messages, facts: Facts) -> str:
    """The recorded text, unless Ollama's differs for good reasons: a SYSTEM, or today's date."""
    dated = facts.form is not None and "strftime_now" in facts.form.template
    if facts.form is not None and row["messages"] and (facts.system or dated):
        return facts.expected_prompt(messages)
    return str(row["prompt"])


def _difference(kind: str, got: str, expected: str, facts: Facts) -> list[str]:
    got, expected = got.removeprefix(facts.bos), expected.removeprefix(facts.bos)
    if got == expected:
        return []
    at = round(agreeing(got, expected) * max(len(got), len(expected)))
    part = slice(max(0, at - 20), at + 40)
    return [f"{kind}: {got[part]!r}, expected {expected[part]!r} (from character {part.start})"]


def _answer_check(
    name: str, text: str, reply: Mapping[str, Any], row: Mapping[str, Any], facts: Facts
) -> Check:
    reason = str(reply.get("done_reason"))
    note = f"{len(text)} characters, done_reason {reason}"
    ends = reason == "stop" or not row["stopped"]
    if facts.system and not _has_system(row):  # recorded without it
        return Check(name, PASSED if ends else NOTED, f"{note}: {text[:80]!r}, with SYSTEM")
    expected = str(row["expected"]).strip()
    if text == expected:
        return check(name, ends, f"{note}, equal to the recorded one")
    share = agreeing(text, expected)
    status = NOTED if ends and share >= MIN_AGREEING_PREFIX else FAILED
    return Check(name, status, f"{note}, agrees over {share:.0%}: {_both(text, expected)}")


def _count_check(
    replies: Sequence[Mapping[str, Any]], facts: Facts, version: tuple[int, ...]
) -> Check:
    wrong = [
        f"{row.get('id', 'prompt')}: {reply.get('prompt_eval_count')}, "
        f"expected {len(row['token_ids'])}"
        for row, reply in zip(facts.rows, replies, strict=True)
        if reply.get("prompt_eval_count") != len(row["token_ids"])
    ]
    note = "; ".join(wrong[:3]) or f"{len(replies)} prompts count as many as recorded"
    # From then on the count leaves out what the cache held.
    status = FAILED if version < JINJA_VERSION else NOTED
    return Check("prompt tokens", status if wrong else PASSED, note)


def _stop_check(replies: Sequence[Mapping[str, Any]], facts: Facts) -> Check:
    pairs = list(zip(facts.rows, replies, strict=True))
    ended = [reply for _, reply in pairs if reply.get("done_reason") == "stop"]
    run_on = [row for row, reply in pairs if row["stopped"] and reply.get("done_reason") != "stop"]
    note = f"{len(ended)} of {len(pairs)} end by themselves"
    if not any(row["stopped"] for row in facts.rows):
        return Check("answers stop", NOTED, f"{note}; none did when recorded")
    if not run_on:
        return Check("answers stop", PASSED, note)
    status = NOTED if len(run_on) <= len(pairs) // _ANSWERS_PER_RUN_ON else FAILED
    return Check("answers stop", status, f"{note}; {run_on[0].get('id', 'one')} ran on")


def _greedy_check(replies: Sequence[Mapping[str, Any]], facts: Facts) -> Check:
    pairs = [
        (str(reply.get("response", "")).strip(), str(row["expected"]).strip())
        for row, reply in zip(facts.rows, replies, strict=True)
    ]
    equal = sum(one == other for one, other in pairs)
    note = f"{equal} of {len(pairs)} equal to llama.cpp's"
    if equal == len(pairs):
        return Check("greedy answers", PASSED, note)
    share = statistics.mean(agreeing(*pair) for pair in pairs)
    limit = max(MIN_AGREEING_PREFIX, facts.min_equal or 0.0)
    first = next(pair for pair in pairs if pair[0] != pair[1])
    note = (
        f"{note}, they agree over {share:.0%} (at least {limit:.0%}; Ollama's llama.cpp is of "
        f"another revision); the first that parts: {_both(*first)}"
    )
    return Check("greedy answers", NOTED if share >= limit else FAILED, note)


def _both(text: str, expected: str) -> str:
    return f"{text[:_SHOWN_CHARACTERS]!r}, recorded {expected[:_SHOWN_CHARACTERS]!r}"


def _options(row: Mapping[str, Any]) -> dict[str, Any]:
    """Greedy and without penalties, as answers are recorded."""
    limit = int(row.get("max_new_tokens") or 256)
    return {"temperature": 0, "seed": 0, "num_predict": limit, "repeat_penalty": 1.0}


def _messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The row's conversation; a base model's text as the one thing that a user says."""
    return row["messages"] or [{"role": "user", "content": str(row["prompt"])}]


def _has_system(row: Mapping[str, Any]) -> bool:
    return bool(_messages(row)[0]["role"] == "system")


def _simple_row(facts: Facts) -> dict[str, Any] | None:
    """A recorded prompt of one user message, perhaps after a system message: what a request to
    generate can say. One that ended by itself if there is any; None without one."""

    def roles(row: Mapping[str, Any]) -> list[str]:
        return [one["role"] for one in _messages(row)]

    simple = [row for row in facts.rows if roles(row) in (["user"], ["system", "user"])]
    ending = [row for row in simple if row["stopped"]]
    return next(iter(ending or simple), None)


def _turn(messages: Messages) -> tuple[str, str | None]:
    """The last message, and the system message where there is one."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    return messages[-1]["content"], system
