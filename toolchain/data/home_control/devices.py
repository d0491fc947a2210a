"""The devices of the home-control task: what each can do, where it stands and how it is called.

An intent is one action with one kind of value; it names the template groups that can express it.
``RESERVED_DEVICES`` are left out of the default domain, so that a model trained on the default
domain has never seen them.
"""

from __future__ import annotations

from dataclasses import dataclass

ROOMS: tuple[str, ...] = (
    "kitchen", "living_room", "bedroom", "bathroom", "hallway", "study",
    "garage", "kids_room", "guest_room", "basement", "balcony", "dining_room",
)  # fmt: skip
DOORS: tuple[str, ...] = ("front_door", "back_door", "garage", "balcony")
ALL_ROOMS = "all"


@dataclass(frozen=True)
class Intent:
    """One action of a device, the kind of value it takes and the groups that phrase it."""

    action: str
    value: str
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Device:
    """A device kind. Nouns are (singular, plural) in English and plain words in Chinese."""

    name: str
    english: tuple[tuple[str, str], ...]
    chinese: tuple[str, ...]
    intents: tuple[Intent, ...]
    rooms: tuple[str, ...] = ROOMS
    everywhere: bool = False


def _power(name: str) -> tuple[Intent, ...]:
    """On and off, with the general phrasings and those of the device itself."""
    return (
        Intent("on", "none", ("on", f"{name}_on")),
        Intent("off", "none", ("off", f"{name}_off")),
    )


def _scale(action: str, value: str, stem: str, general: bool = True) -> tuple[Intent, ...]:
    """An absolute, a rising and a falling form of one adjustable quantity."""
    both = ("", "_up", "_down")
    shared = {"": "set", "_up": "up", "_down": "down"}
    groups = {s: ((shared[s],) if general else ()) + (f"{stem}{s or '_set'}",) for s in both}
    return tuple(Intent(action, value + suffix, groups[suffix]) for suffix in both)


_ALL: tuple[Device, ...] = (
    Device(
        "light", (("light", "lights"), ("lamp", "lamps")), ("灯", "电灯", "灯光"),
        (
            *_power("light"), *_scale("set", "percent", "light"),
            Intent("color", "color", ("color",)),
        ),
        everywhere=True,
    ),
    Device(
        "ac", (("AC", "ACs"), ("air conditioner", "air conditioners"), ("A/C", "A/C units")),
        ("空调", "冷气机"),
        (*_power("ac"), *_scale("set", "temp", "ac"), Intent("mode", "mode", ("mode",))),
        everywhere=True,
    ),
    Device(
        "thermostat", (("thermostat", "thermostats"), ("temperature", "temperatures")),
        ("温控器", "恒温器", "室温"),
        _scale("set", "temp", "thermostat"), everywhere=True,
    ),
    Device(
        "heater", (("heater", "heaters"), ("radiator", "radiators")), ("暖气", "取暖器", "电暖器"),
        _power("heater"), everywhere=True,
    ),
    Device(
        "blinds", (("blinds", "blinds"), ("shades", "shades"), ("curtains", "curtains")),
        ("窗帘", "百叶窗", "卷帘"),
        (
            Intent("open", "none", ("blinds_open",)), Intent("close", "none", ("blinds_close",)),
            Intent("set", "percent", ("set", "blinds_set")),
        ),
        everywhere=True,
    ),
    Device(
        "fan", (("fan", "fans"), ("ceiling fan", "ceiling fans")), ("风扇", "电风扇", "吊扇"),
        (*_power("fan"), *_scale("set", "level", "fan")), everywhere=True,
    ),
    Device(
        "speaker", (("speaker", "speakers"), ("stereo", "stereos")), ("音箱", "音响"),
        (
            Intent("play", "none", ("play",)), Intent("pause", "none", ("pause",)),
            Intent("mute", "none", ("mute",)), *_scale("volume", "percent", "speaker"),
            *_scale("volume", "percent", "volume", general=False),
        ),
        everywhere=True,
    ),
    Device(
        "tv", (("TV", "TVs"), ("television", "televisions"), ("telly", "tellies")),
        ("电视", "电视机"),
        (
            *_power("tv"), Intent("mute", "none", ("mute",)),
            *_scale("volume", "percent", "volume", general=False),
            Intent("channel", "channel", ("channel",)),
        ),
    ),
    Device(
        "vacuum", (("vacuum", "vacuums"), ("robot vacuum", "robot vacuums")),
        ("扫地机", "扫地机器人", "吸尘器"),
        (
            Intent("start", "none", ("start", "vacuum_start")), Intent("stop", "none", ("stop",)),
            Intent("dock", "none", ("dock",)),
        ),
    ),
    Device(
        "lock", (("door", "doors"),), ("门",),
        (Intent("lock", "none", ("lock",)), Intent("unlock", "none", ("unlock",))),
        rooms=DOORS, everywhere=True,
    ),
    Device(
        "oven", (("oven", "ovens"),), ("烤箱", "电烤箱"),
        (*_power("oven"), Intent("set", "oven", ("set", "oven_set"))), rooms=("kitchen",),
    ),
    Device(
        "coffee_maker", (("coffee maker", "coffee makers"), ("coffee machine", "coffee machines")),
        ("咖啡机",),
        (Intent("start", "none", ("start", "coffee_start")), Intent("stop", "none", ("stop",))),
        rooms=("kitchen", "study"),
    ),
    Device(
        "washer", (("washing machine", "washing machines"), ("washer", "washers")),
        ("洗衣机",),
        (Intent("start", "none", ("start", "washer_start")), Intent("stop", "none", ("stop",))),
        rooms=("bathroom", "basement"),
    ),
    Device(
        "air_purifier", (("air purifier", "air purifiers"), ("air cleaner", "air cleaners")),
        ("空气净化器", "净化器"),
        (*_power("purifier"), *_scale("set", "level", "purifier")), everywhere=True,
    ),
    Device(
        "camera", (("camera", "cameras"), ("security camera", "security cameras")),
        ("摄像头", "监控"), _power("camera"), everywhere=True,
    ),
    Device(
        "timer", (("timer", "timers"),), ("定时器", "计时器", "倒计时"),
        (Intent("start", "minutes", ("timer_start",)), Intent("cancel", "none", ("timer_cancel",))),
        rooms=(),
    ),
    Device(
        "dehumidifier",
        (("dehumidifier", "dehumidifiers"), ("moisture remover", "moisture removers")),
        ("除湿机", "抽湿机", "除湿器"),
        (*_power("dehumidifier"), *_scale("set", "percent", "dehumidifier")), everywhere=True,
    ),
)  # fmt: skip

DEVICES: dict[str, Device] = {device.name: device for device in _ALL}
RESERVED_DEVICES: tuple[str, ...] = ("dehumidifier",)
DEFAULT_DEVICES: tuple[str, ...] = tuple(n for n in DEVICES if n not in RESERVED_DEVICES)


def legal_actions(device: str) -> frozenset[str]:
    """The actions that a device knows."""
    return frozenset(intent.action for intent in DEVICES[device].intents)
