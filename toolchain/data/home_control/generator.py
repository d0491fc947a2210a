"""Seeded generator of the home-control task, with parts that share no sentence.

The part of an example follows from its words alone, never from the seed. Each clause has a
combination (template, device, rooms, form of the value); a stable hash holds a tenth of all
combinations out. A test example has at least one held-out combination, a train or validation
example has none. A second hash, of the normalised sentence, gives each part its own sentences.
So the test part asks for things that were never said in that way in training.

Example: ``generate("test", 1000, seed=7)``
"""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import chinese, english
from .devices import DEFAULT_DEVICES, DEVICES, Device, Intent
from .grammar import Call, Clause, realise, realise_list, refuse

SPLITS: tuple[str, ...] = ("train", "validation", "test")
LANGUAGES: tuple[str, ...] = ("en", "zh")
KINDS: tuple[str, ...] = ("single", "rooms", "devices", "clauses", "refusal")

_HELD_OUT_SHARE = 10
_SENTENCE_BUCKETS = 20
_LISTED = ("light", "ac", "heater", "fan", "tv", "air_purifier", "camera", "dehumidifier")
_RICH_VALUES = ("color", "mode")  # many words to learn, so drawn twice as often
_MAX_MISSES = 20_000


@dataclass(frozen=True)
class Example:
    """A request, its only right answer, and where it belongs."""

    messages: list[dict[str, str]]
    answer: str
    language: str
    kind: str
    split: str
    combinations: tuple[str, ...]

    def record(self) -> dict[str, object]:
        """The example as a line of a task file."""
        return {"messages": self.messages, "answer": self.answer}

    def conversation(self) -> dict[str, object]:
        """The example as a line of a training or calibration file."""
        reply = {"role": "assistant", "content": self.answer}
        return {"messages": [*self.messages, reply]}


def render_answer(calls: Sequence[Call]) -> str:
    """The one canonical answer: compact JSON, fixed key order."""
    body: dict[str, object] = {"calls": list(calls)}
    if not calls:
        body["refusal"] = "unsupported"
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def score(prediction: str, reference: str) -> bool:
    """Exact match of the text; the answer has one canonical form, so nothing else is right."""
    return prediction.strip() == reference.strip()


def normalise(sentence: str) -> str:
    """The sentence without case, spaces and punctuation, as the parts compare it."""
    return "".join(
        c for c in sentence.casefold() if unicodedata.category(c)[0] in "LNS" or c in "%+-"
    )


def _bucket(text: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % size


def is_held_out(combination: str) -> bool:
    """Whether only the test part may use this combination."""
    return _bucket("combination:" + combination, _HELD_OUT_SHARE) == 0


def split_of(sentence: str, combinations: Sequence[str]) -> str | None:
    """The part that owns the sentence, or None where no part may use it."""
    bucket = _bucket("sentence:" + normalise(sentence), _SENTENCE_BUCKETS)
    held_out = any(is_held_out(c) for c in combinations)
    if bucket < 8:
        return "test" if held_out else ("validation" if bucket == 0 else "train")
    return None if held_out else "train"


def _finish(text: str, language: str, rng: random.Random) -> str:
    """Vary capitals and the closing mark."""
    if language == "zh":
        return text + rng.choice(("", "", "。", "！"))
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    questions = ("could", "can", "would", "what", "who", "how", "is", "why")
    asks = text.casefold().startswith(questions)
    return text + rng.choice(("", "", "?" if asks else ".", "?" if asks else "!"))


def _wrap(clauses: Sequence[Clause], language: str, rng: random.Random) -> str:
    lexicon = english if language == "en" else chinese
    text = clauses[0].text
    for clause in clauses[1:]:
        text += rng.choice(lexicon.JOINS) + clause.text
    statement = any(clause.statement for clause in clauses)
    frame = rng.choice(lexicon.PLAIN if statement else lexicon.POLITE)
    return _finish(frame.format(c=text), language, rng)


class _Sampler:
    """Draws requests over a set of devices."""

    def __init__(
        self, devices: Sequence[str], languages: Sequence[str], refusals: float, rng: random.Random
    ) -> None:
        self.rng = rng
        self.languages = languages
        self.refusals = refusals
        self.intents: list[tuple[Device, Intent]] = [
            (DEVICES[name], intent)
            for name in devices
            for intent in DEVICES[name].intents
            for _ in range(2 if intent.value in _RICH_VALUES else 1)
        ]
        self.listed = [DEVICES[name] for name in devices if name in _LISTED]

    def _clause(self, language: str, located: bool, used: set[str]) -> Clause | None:
        device, intent = self.rng.choice(self.intents)
        if device.name in used:
            return None
        used.add(device.name)
        return realise(device, intent, language, located, self.rng)

    def _clauses(self, language: str) -> list[Clause]:
        """Several clauses name a room each or none does, so that no room is shared in doubt."""
        count = 2 if self.rng.random() < 0.75 else 3
        located, used = self.rng.random() < 0.7, set[str]()
        drawn = (self._clause(language, located, used) for _ in range(count))
        return [clause for clause in drawn if clause]

    def draw(self) -> tuple[str, list[Clause], str]:
        """A language, the clauses of one request and its kind."""
        language = self.rng.choice(self.languages)
        share = self.rng.random()
        if share < self.refusals:
            return language, [refuse(language, self.rng)], "refusal"
        if share > 0.92 and len(self.listed) > 1:
            count = min(2 if self.rng.random() < 0.75 else 3, len(self.listed))
            chosen = self.rng.sample(self.listed, count)
            action, located = self.rng.choice(("on", "off")), self.rng.random() < 0.7
            return language, [realise_list(chosen, action, language, located, self.rng)], "devices"
        clauses = self._clauses(language) if share > 0.68 else []
        if len(clauses) < 2:
            located = self.rng.random() < 0.75
            device, intent = self.rng.choice(self.intents)
            clauses = [realise(device, intent, language, located, self.rng)]
            return language, clauses, "rooms" if len(clauses[0].calls) > 1 else "single"
        return language, clauses, "clauses"


def generate(
    split: str,
    count: int,
    seed: int,
    *,
    devices: Sequence[str] = DEFAULT_DEVICES,
    must_include: str | None = None,
    languages: Sequence[str] = LANGUAGES,
    refusals: float = 0.12,
) -> Iterator[Example]:
    """Yield ``count`` different examples of one part, always the same for the same arguments.

    ``devices`` is the domain: add a name of ``RESERVED_DEVICES`` to reach beyond the default one.
    ``must_include`` keeps only requests that call this device. ``refusals`` is their share.
    Raises ValueError for an unknown part or device, or when the domain has too few sentences.
    """
    unknown = set(devices) - set(DEVICES)
    if split not in SPLITS or unknown or not devices:
        raise ValueError(f"unknown part or devices: {split} {sorted(unknown)}")
    sampler = _Sampler(devices, languages, refusals, random.Random(f"{seed}:{split}"))
    seen, misses = set[str](), 0
    while len(seen) < count:
        language, clauses, kind = sampler.draw()
        combinations = tuple(c for clause in clauses for c in clause.combinations)
        calls = [call for clause in clauses for call in clause.calls]
        text = _wrap(clauses, language, sampler.rng)
        wanted = must_include is None or any(call["device"] == must_include for call in calls)
        key = normalise(text)
        if not wanted or key in seen or split_of(text, combinations) != split:
            misses += 1
            if misses > _MAX_MISSES:
                raise ValueError(f"the domain has too few sentences for {count} examples")
            continue
        seen.add(key)
        misses = 0
        message = {"role": "user", "content": text}
        yield Example([message], render_answer(calls), language, kind, split, combinations)
