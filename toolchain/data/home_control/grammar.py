"""From an intent to a clause: the words, the calls they mean and the combination they stand for."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from . import chinese, english, refusals, values
from .devices import ALL_ROOMS, Device, Intent

Call = dict[str, Any]


@dataclass(frozen=True)
class Clause:
    """One request in words. ``combinations`` name the template, device, rooms and value class."""

    text: str
    calls: tuple[Call, ...]
    combinations: tuple[str, ...]
    statement: bool = False


@dataclass
class Phrase:
    """A device with its rooms in words; ``plural`` picks is or are."""

    text: str
    plural: bool = field(default=False)


def make_call(device: str, room: str | None, action: str, value: int | str | None) -> Call:
    """A call with its keys in the fixed order; an absent room or value is null."""
    return {"device": device, "room": room, "action": action, "value": value}


def phrasings(language: str) -> dict[str, tuple[str, ...]]:
    """The template groups of a language."""
    return english.TEMPLATES if language == "en" else chinese.TEMPLATES


def draw_rooms(device: Device, located: bool, rng: random.Random) -> tuple[str, ...]:
    """No room, one room, two rooms or the whole house."""
    if not located or not device.rooms:
        return ()
    kind = rng.random()
    if kind < 0.12 and device.everywhere:
        return (ALL_ROOMS,)
    if kind < 0.27 and len(device.rooms) > 2:
        return tuple(rng.sample(device.rooms, 2))
    return (rng.choice(device.rooms),)


def _english_at(rooms: tuple[str, ...], rng: random.Random) -> str:
    if not rooms:
        return ""
    if rooms == (ALL_ROOMS,):
        return rng.choice(english.EVERYWHERE)
    names = [rng.choice(english.ROOM_NAMES[room]) for room in rooms]
    parts = [f"{'on' if room == 'balcony' else 'in'} the {name}"
             for room, name in zip(rooms, names, strict=True)]  # fmt: skip
    return " " + " and ".join(parts)


def _english_place(rooms: tuple[str, ...], rng: random.Random) -> str:
    if rooms == (ALL_ROOMS,):
        return rng.choice(english.WHOLE_HOUSE)
    return " and ".join(f"the {rng.choice(english.ROOM_NAMES[room])}" for room in rooms)


def _english_doors(rooms: tuple[str, ...], rng: random.Random) -> Phrase:
    if not rooms:
        return Phrase("the door")
    if rooms == (ALL_ROOMS,):
        return Phrase(
            rng.choice(("all the doors", "all doors", "the doors in the whole house")), True
        )
    return Phrase(" and ".join(f"the {english.DOOR_NAMES[r]}" for r in rooms), len(rooms) > 1)


def english_device(
    device: Device, rooms: tuple[str, ...], rng: random.Random, before: bool = False
) -> Phrase:
    """``before`` puts the room before the noun, where a list of devices leaves no doubt."""
    if device.name == "lock":
        return _english_doors(rooms, rng)
    single, many = rng.choice(device.english)
    if rooms == (ALL_ROOMS,):
        words = rng.choice((f"all the {many}", f"the {many}{rng.choice(english.EVERYWHERE)}"))
        return Phrase(words, True)
    plural = len(rooms) > 1 or single == many or (device.name == "light" and rng.random() < 0.5)
    noun = many if plural else single
    if not rooms:
        return Phrase(f"the {noun}", plural)
    if before or rng.random() < 0.55:
        names = " and ".join(rng.choice(english.ROOM_NAMES[room]) for room in rooms)
        return Phrase(f"the {names} {noun}", plural)
    return Phrase(f"the {noun}{_english_at(rooms, rng)}", plural)


def _chinese_place(rooms: tuple[str, ...], rng: random.Random) -> str:
    if not rooms:
        return rng.choice(chinese.HERE)
    if rooms == (ALL_ROOMS,):
        return rng.choice(chinese.EVERYWHERE)
    link = rng.choice(("和", "跟", "、"))
    return link.join(rng.choice(chinese.ROOM_NAMES[room]) for room in rooms)


def chinese_device(device: Device, rooms: tuple[str, ...], rng: random.Random) -> Phrase:
    """The device and its rooms in Chinese."""
    if device.name == "lock":
        if rooms == (ALL_ROOMS,):
            return Phrase(rng.choice(("所有的门", "所有门", "家里所有的门", "全部的门")))
        return Phrase("和".join(chinese.DOOR_NAMES[room] for room in rooms) or "门")
    noun = rng.choice(device.chinese)
    if not rooms:
        return Phrase(noun)
    if rooms == (ALL_ROOMS,):
        return Phrase(rng.choice(("所有", "所有的", "全屋的", "每个房间的", "家里所有的")) + noun)
    link = rng.choice(("的", "的", "里的", "")) if len(rooms) == 1 else "的"
    return Phrase(_chinese_place(rooms, rng) + link + noun)


def describe(
    device: Device, rooms: tuple[str, ...], language: str, rng: random.Random, before: bool = False
) -> Phrase:
    """The device with its rooms in the given language."""
    if language == "en":
        return english_device(device, rooms, rng, before)
    return chinese_device(device, rooms, rng)


def _value(intent: Intent, template: str, language: str, rng: random.Random) -> values.Value:
    """The value that fits both the intent and the slots of the template."""
    lexicon = english if language == "en" else chinese
    kind, _, direction = intent.value.partition("_")
    if kind == "none":
        return values.Value(None, "", "none")
    if not direction:
        return values.absolute(kind, language, rng)
    sign = "+" if direction == "up" else "-"
    if "{v}" in template:
        return values.relative(kind, sign, language, rng)
    spoken, size = rng.choice(lexicon.BITS) if "{bit}" in template else ("", "small")
    return values.vague(kind, sign, size, spoken)


def _template(intent: Intent, language: str, rooms: tuple[str, ...], rng: random.Random) -> str:
    """A phrasing of the intent that can say the rooms."""
    table = phrasings(language)
    pool = [text for group in intent.groups for text in table[group]]
    if rooms:
        pool = [t for t in pool if any(slot in t for slot in ("{d}", "{in}", "{place}"))]
    else:
        pool = [t for t in pool if "{place}" not in t]
    return rng.choice(pool)


def realise(
    device: Device, intent: Intent, language: str, located: bool, rng: random.Random
) -> Clause:
    """Say one intent of one device, for no, one or more rooms."""
    rooms = draw_rooms(device, located, rng)
    template = _template(intent, language, rooms, rng)
    value = _value(intent, template, language, rng)
    phrase = describe(device, rooms, language, rng)
    at = _english_at if language == "en" else _chinese_place
    place = _english_place if language == "en" else _chinese_place
    slots = {
        "d": phrase.text, "is": "are" if phrase.plural else "is", "v": value.spoken,
        "bit": value.spoken, "n": rng.choice(device.chinese), "in": "", "place": "",
    }  # fmt: skip
    if "{in}" in template:
        slots["in"] = at(rooms, rng)
    if "{place}" in template:
        slots["place"] = place(rooms, rng)
    text = template.removeprefix("~").format(**slots)
    calls = tuple(make_call(device.name, r, intent.action, value.answer) for r in rooms or (None,))
    combination = "|".join((language, template, device.name, "+".join(rooms), value.form))
    return Clause(text, calls, (combination,), template.startswith("~"))


def realise_list(
    devices: list[Device], action: str, language: str, located: bool, rng: random.Random
) -> Clause:
    """Say one action for several devices at once."""
    table = phrasings(language)
    template = rng.choice([t for t in table[action] if "{d}" in t])
    phrases, calls, combinations = [], [], []
    for device in devices:
        rooms = (rng.choice(device.rooms),) if located else ()
        phrases.append(describe(device, rooms, language, rng, before=True).text)
        calls.append(make_call(device.name, rooms[0] if rooms else None, action, None))
        combinations.append("|".join((language, template, device.name, "+".join(rooms), "list")))
    link, last = (", ", " and ") if language == "en" else ("、", "和")
    text = link.join(phrases[:-1]) + last + phrases[-1]
    words = template.removeprefix("~").format(d=text, **{"is": "are"})
    return Clause(words, tuple(calls), tuple(combinations), template.startswith("~"))


def refuse(language: str, rng: random.Random) -> Clause:
    """A request outside the home: the answer has no call."""
    english_side = language == "en"
    table = refusals.ENGLISH if english_side else refusals.CHINESE
    unknown = refusals.ENGLISH_UNKNOWN if english_side else refusals.CHINESE_UNKNOWN
    tongues = refusals.ENGLISH_LANGUAGES if english_side else refusals.CHINESE_LANGUAGES
    colors = (english if english_side else chinese).COLORS
    template = rng.choice(list(table))
    filler = rng.choice(unknown if table[template] == ("@",) else table[template])
    named = f"the {filler}" if english_side else filler
    rooms = _english_at if english_side else _chinese_place
    if "{w}" in template and rng.random() < 0.4:
        where = rooms((rng.choice(list(english.ROOM_NAMES)),), rng)
        named = named + where if english_side else f"{where}的{filler}"
    text = template.format(
        x=filler, u=named, w=named, y=rng.choice(tongues), k=rng.randint(2, 60),
        c=rng.choice(colors[rng.choice(list(colors))]),
    )  # fmt: skip
    question = english_side and template.split()[0] in refusals.ENGLISH_QUESTIONS
    return Clause(text, (), ("|".join((language, template, filler, "refusal")),), question)
