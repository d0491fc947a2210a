"""Answers, stop tokens and task score against what was recorded."""

from __future__ import annotations

import json
import statistics
from typing import Any

from .checks import Check, at_least, at_most, scaled
from .engine import Answer, Engine

MIN_AGREEING_PREFIX = 0.5  # mean over the prompts, on another engine or CPU


def ask(engine: Engine, prompts: list[dict[str, Any]]) -> list[Answer]:
    return [
        engine.answer(row["prompt"], row["add_special"], row["max_new_tokens"]) for row in prompts
    ]


def agreeing_prefix(expected: list[Any], actual: list[Any]) -> float:
    """Share of the longer answer over which both agree from the start (1.0 for two empty ones)."""
    longer, agree = max(len(expected), len(actual)), 0
    while agree < min(len(expected), len(actual)) and expected[agree] == actual[agree]:
        agree += 1
    return agree / longer if longer else 1.0


def agreement(row: dict[str, Any], answer: Answer) -> float:
    """Share over which an answer agrees with the recorded one: in tokens, else in characters."""
    if answer.token_ids is not None:
        return agreeing_prefix(row["expected_token_ids"], answer.token_ids)
    return agreeing_prefix(list(comparable(row["expected"])), list(comparable(answer.text)))


def is_equal(row: dict[str, Any], answer: Answer) -> bool:
    if answer.token_ids is None:
        return comparable(row["expected"]) == comparable(answer.text)
    return bool(row["expected"] == answer.text and row["expected_token_ids"] == answer.token_ids)


def comparable(text: str) -> str:
    """Without what servers cut off: a character that the last token left unfinished, and spaces."""
    return text.strip().rstrip("\ufffd").strip()


def same_prompt(row: dict[str, Any], answer: Answer) -> bool:
    """Equal tokens, or where the engine does not tell them, as many."""
    if answer.prompt_token_ids is None:
        return bool(len(row["token_ids"]) == answer.prompt_tokens)
    return bool(row["token_ids"] == answer.prompt_token_ids)


def check_answers(
    prompts: list[dict[str, Any]],
    answers: list[Answer],
    same_engine: bool,
    thresholds: dict[str, Any],
) -> list[Check]:
    """Answers against the recorded ones.

    Recorded on this engine build and these CPU features, all must be equal; elsewhere, where
    kernels round differently, the profile's `min_answers_equal`, and half of the tokens must agree.
    """
    pairs = [(row, answers[index]) for index, row in enumerate(prompts)]
    tokens_off = [row["id"] for row, answer in pairs if not same_prompt(row, answer)]
    shares = [agreement(row, answer) for row, answer in pairs]
    equal = [is_equal(row, answer) for row, answer in pairs]
    differ = [
        "{} agrees over {:.0%}".format(row["id"], shares[index])
        for index, row in enumerate(prompts)
        if not equal[index]
    ]
    if len(differ) > 8:
        differ[8:] = ["…"]
    equal_limit = 1.0 if same_engine else thresholds.get("min_answers_equal")
    prefix_limit = 1.0 if same_engine else MIN_AGREEING_PREFIX
    notes = [] if same_engine else ["recorded on another engine or CPU"]
    by_text = answers[0].token_ids is None
    return [
        at_most(
            "prompt_token_ids", len(tokens_off), 0, "prompts differ", prompt_note(pairs, tokens_off)
        ),
        at_least(
            "equal_answers",
            sum(equal) / len(pairs),
            equal_limit,
            "share",
            "; ".join(notes + differ),
        ),
        at_least(
            "agreeing_prefix",
            statistics.mean(shares),
            prefix_limit,
            "share",
            "of the text: this engine tells no tokens" if by_text else "",
        ),
    ]


def prompt_note(pairs: list[tuple[dict[str, Any], Answer]], off: list[str]) -> str:
    if pairs[0][1].prompt_token_ids is None:
        return "; ".join(["counted: this engine tells no tokens", *off])
    return ", ".join(off)


def check_stops(
    prompts: list[dict[str, Any]], answers: list[Answer], stop_texts: list[str], same_engine: bool
) -> Check:
    """Answers that stopped when recorded stop again; no answer contains a stop token's text."""
    faults = []
    for index, row in enumerate(prompts):
        leaked = [text for text in stop_texts if text and text in answers[index].raw_text]
        if leaked:
            faults.append("{} contains {}".format(row["id"], leaked[0]))
        elif row["stopped"] and not answers[index].stopped:
            faults.append("{} did not stop".format(row["id"]))
    stopped = sum(answer.stopped for answer in answers)
    note = "; ".join(faults) or f"{stopped} of {len(answers)} answers stopped by themselves"
    # Elsewhere a single answer may run on where rounding differs; most must still stop.
    allowed = 0 if same_engine else len(prompts) // 10
    return at_most("stop_token", len(faults), allowed, "faults", note)


def check_task(
    prompts: list[dict[str, Any]], answers: list[Answer], thresholds: dict[str, Any]
) -> Check:
    """Share of answers equal to the task's true answer (JSON by value, other text stripped).

    The limit is the profile's `min_task_score_share` of the score of the recorded answers.
    """
    scored = [index for index, row in enumerate(prompts) if row.get("reference") is not None]
    if not scored:
        return Check("task_score", note="no prompt of this bundle has a true answer")
    right = sum(same_value(prompts[i]["reference"], answers[i].text) for i in scored)
    recorded = sum(same_value(prompts[i]["reference"], prompts[i]["expected"]) for i in scored)
    limit = scaled(thresholds.get("min_task_score_share"), recorded / len(scored))
    note = f"{right} of {len(scored)} right, {recorded} when recorded"
    return at_least("task_score", right / len(scored), limit, "share", note)


def same_value(reference: str, text: str) -> bool:
    try:
        return bool(json.loads(reference) == json.loads(text))
    except (ValueError, RecursionError):
        return reference.strip() == text.strip()
