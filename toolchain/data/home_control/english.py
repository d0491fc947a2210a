"""English phrasings of the home-control task.

Slots: ``{d}`` the device with its room, ``{n}`` the device noun alone, ``{in}`` " in the kitchen"
or nothing, ``{place}`` "the kitchen" (needs a room), ``{v}`` the value, ``{bit}`` " a bit",
" a lot" or nothing. A leading ``~`` marks a statement, which takes no "could you" around it.
"""

from __future__ import annotations

TEMPLATES: dict[str, tuple[str, ...]] = {
    "on": (
        "turn on {d}", "turn {d} on", "switch on {d}", "switch {d} on", "power on {d}",
        "power {d} up", "activate {d}", "~{d} on", "~I need {d} on", "~I want {d} on",
        "make sure {d} {is} on",
    ),
    "off": (
        "turn off {d}", "turn {d} off", "switch off {d}", "switch {d} off", "power off {d}",
        "shut off {d}", "shut {d} down", "deactivate {d}", "~{d} off", "~I want {d} off",
        "make sure {d} {is} off", "~nobody needs {d} anymore",
    ),
    "light_on": ("light up {place}", "~it's too dark{in}", "~I can't see anything{in}",
                 "give me some light{in}"),
    "light_off": ("make it dark{in}", "~no more light{in}", "kill {d}"),
    "set": (
        "set {d} to {v}", "put {d} at {v}", "~{d} to {v}", "change {d} to {v}",
        "adjust {d} to {v}", "bring {d} to {v}", "~I want {d} at {v}",
    ),
    "up": (
        "turn {d} up by {v}", "turn up {d} by {v}", "increase {d} by {v}", "raise {d} by {v}",
        "turn {d} up{bit}", "turn up {d}{bit}", "increase {d}{bit}", "~{d} up by {v}",
    ),
    "down": (
        "turn {d} down by {v}", "turn down {d} by {v}", "decrease {d} by {v}", "lower {d} by {v}",
        "reduce {d} by {v}", "turn {d} down{bit}", "turn down {d}{bit}", "lower {d}{bit}",
        "~{d} down by {v}",
    ),
    "light_set": (
        "dim {d} to {v}", "set the brightness of {d} to {v}", "~{d} brightness {v}",
        "make the brightness of {d} {v}",
    ),
    "light_up": (
        "brighten {d} by {v}", "make {d} {v} brighter", "make {d}{bit} brighter",
        "brighten {d}{bit}", "~{d} should be{bit} brighter",
    ),
    "light_down": (
        "dim {d} by {v}", "make {d} {v} dimmer", "make {d}{bit} dimmer", "dim {d}{bit}",
        "~it's too bright{in}", "~{d} should be{bit} dimmer",
    ),
    "color": (
        "make {d} {v}", "turn {d} {v}", "set {d} to {v}", "change the color of {d} to {v}",
        "switch {d} to {v} light", "~I want {d} in {v}",
    ),
    "ac_on": ("start {d}", "get {d} running"),
    "ac_off": ("stop {d}",),
    "ac_set": ("cool down to {v} with {d}", "run {d} at {v}"),
    "ac_up": ("make {d} {v} warmer", "~{d} should be{bit} warmer"),
    "ac_down": ("make {d} {v} cooler", "~{d} should be{bit} cooler"),
    "mode": ("set {d} to {v} mode", "switch {d} to {v} mode", "put {d} in {v} mode",
             "run {d} in {v} mode", "~{d} in {v} mode"),
    "thermostat_set": ("make it {v}{in}", "~I'd like it to be {v}{in}", "~it should be {v}{in}"),
    "thermostat_up": ("make it {v} warmer{in}", "make it{bit} warmer{in}", "~it's too cold{in}",
                      "~I'm cold{in}"),
    "thermostat_down": ("make it {v} cooler{in}", "make it{bit} cooler{in}", "~it's too hot{in}",
                        "~I'm sweating{in}"),
    "heater_on": ("start {d}", "get {d} running"),
    "heater_off": ("stop {d}",),
    "blinds_open": ("open {d}", "open up {d}", "pull up {d}", "raise {d}", "~I want {d} open",
                    "let some daylight in through {d}"),
    "blinds_close": ("close {d}", "shut {d}", "draw {d}", "pull down {d}", "~I want {d} closed",
                     "block the sun with {d}"),
    "blinds_set": ("open {d} to {v}", "move {d} to {v}", "set the position of {d} to {v}"),
    "fan_on": ("start {d}", "get {d} spinning"),
    "fan_off": ("stop {d}",),
    "fan_set": ("run {d} at {v}", "set the speed of {d} to {v}"),
    "fan_up": ("make {d}{bit} faster", "speed {d} up by {v}", "speed up {d}{bit}"),
    "fan_down": ("make {d}{bit} slower", "slow {d} down by {v}", "slow down {d}{bit}"),
    "play": ("play some music{in}", "play music on {d}", "start the music{in}", "put on a song{in}",
             "resume {d}", "~I'd like to hear some music{in}", "get {d} playing"),
    "pause": ("pause {d}", "pause the music{in}", "stop the music{in}", "stop the song{in}",
              "put {d} on pause", "~no more music{in}"),
    "mute": ("mute {d}", "silence {d}", "put {d} on mute", "~{d} on mute", "make {d} silent"),
    "volume_set": ("set the volume of {d} to {v}", "change the volume of {d} to {v}",
                   "~volume of {d} to {v}", "play {d} at {v} volume"),
    "volume_up": ("make {d}{bit} louder", "turn up the volume of {d} by {v}",
                  "raise the volume of {d} by {v}", "turn up the volume of {d}{bit}",
                  "~{d} {is} too quiet", "~I can't hear {d}"),
    "volume_down": ("make {d}{bit} quieter", "turn down the volume of {d} by {v}",
                    "lower the volume of {d} by {v}", "turn down the volume of {d}{bit}",
                    "~{d} {is} too loud"),
    "speaker_set": ("play the music{in} at {v} volume",),
    "speaker_up": ("make the music{in}{bit} louder", "~the music{in} is too quiet"),
    "speaker_down": ("make the music{in}{bit} quieter", "~the music{in} is too loud"),
    "tv_on": ("start {d}", "~I want to watch {d}"),
    "tv_off": ("~I'm done watching {d}",),
    "channel": ("switch {d} to channel {v}", "put channel {v} on {d}", "set {d} to channel {v}",
                "change {d} to channel {v}", "show channel {v} on {d}", "~channel {v} on {d}"),
    "start": ("start {d}", "run {d}", "get {d} started", "start up {d}", "set {d} going",
              "~{d} should start"),
    "stop": ("stop {d}", "halt {d}", "cancel {d}", "make {d} stop", "~{d} should stop",
             "interrupt {d}"),
    "vacuum_start": ("vacuum {place}", "clean the floor{in}", "~the floor{in} is dirty",
                     "sweep {place}", "~there are crumbs on the floor{in}"),
    "dock": ("send {d} back to its dock", "dock {d}", "send {d} home", "return {d} to the base",
             "let {d} charge", "~{d} should go home"),
    "lock": ("lock {d}", "lock up {d}", "make sure {d} {is} locked", "bolt {d}",
             "~I want {d} locked"),
    "unlock": ("unlock {d}", "make sure {d} {is} unlocked", "undo the lock on {d}",
               "release {d}", "~I want {d} unlocked"),
    "oven_on": ("start {d}", "fire up {d}", "~I want to bake with {d}"),
    "oven_off": ("stop {d}", "~I'm done baking with {d}"),
    "oven_set": ("preheat {d} to {v}", "heat {d} to {v}", "bake at {v} in {d}"),
    "coffee_start": ("make some coffee with {d}", "brew a cup with {d}", "~I need coffee from {d}"),
    "washer_start": ("do the laundry in {d}", "wash the clothes in {d}"),
    "purifier_on": ("start {d}", "clean the air{in}", "~the air{in} is stale"),
    "purifier_off": ("stop {d}",),
    "purifier_set": ("run {d} at {v}", "set the strength of {d} to {v}"),
    "purifier_up": ("make {d}{bit} stronger",),
    "purifier_down": ("make {d}{bit} weaker",),
    "camera_on": ("start {d}", "start recording with {d}", "~I want to film with {d}"),
    "camera_off": ("stop {d}", "stop recording with {d}"),
    "timer_start": ("set a timer for {v}", "start a timer for {v}", "set {d} to {v}",
                    "start a {v} countdown", "count down {v}", "~timer for {v}",
                    "remind me in {v}"),
    "timer_cancel": ("cancel {d}", "stop {d}", "clear {d}", "delete {d}", "~no more timer"),
    "dehumidifier_on": ("start {d}", "dry the air{in}", "~it's too damp{in}"),
    "dehumidifier_off": ("stop {d}", "~the air{in} is dry enough"),
    "dehumidifier_set": ("run {d} at {v}", "bring the humidity{in} to {v}"),
    "dehumidifier_up": ("make {d}{bit} stronger",),
    "dehumidifier_down": ("make {d}{bit} weaker",),
}  # fmt: skip

POLITE: tuple[str, ...] = (
    "{c}", "{c}", "{c}", "please {c}", "{c} please", "{c}, please", "could you {c}", "can you {c}",
    "would you please {c}", "could you please {c}", "can you {c} for me", "{c} for me",
    "I'd like you to {c}", "I want you to {c}", "hey, {c}", "go ahead and {c}", "{c} now",
    "{c} right away", "quickly {c}", "it's time to {c}", "would you {c}", "ok, {c}",
    "hi, can you {c}", "you can {c}", "{c}, thanks", "kindly {c}", "let's {c}",
)  # fmt: skip
PLAIN: tuple[str, ...] = ("{c}", "{c}", "{c}", "{c}, please", "hey, {c}", "ok, {c}", "sorry, {c}")
JOINS: tuple[str, ...] = (" and ", ", and ", ", then ", " and then ", ", also ", "; ", " and also ")

ROOM_NAMES: dict[str, tuple[str, ...]] = {
    "kitchen": ("kitchen",), "living_room": ("living room", "lounge"), "bedroom": ("bedroom",),
    "bathroom": ("bathroom",), "hallway": ("hallway", "corridor"), "study": ("study", "office"),
    "garage": ("garage",), "kids_room": ("kids' room", "children's room"),
    "guest_room": ("guest room",), "basement": ("basement", "cellar"), "balcony": ("balcony",),
    "dining_room": ("dining room",),
}  # fmt: skip
DOOR_NAMES: dict[str, str] = {
    "front_door": "front door", "back_door": "back door", "garage": "garage door",
    "balcony": "balcony door",
}  # fmt: skip
EVERYWHERE: tuple[str, ...] = (
    " in every room",
    " everywhere",
    " in the whole house",
    " in all rooms",
    " all over the house",
)
WHOLE_HOUSE: tuple[str, ...] = ("the whole house", "every room", "all rooms")
BITS: tuple[tuple[str, str], ...] = (
    ("", "small"), (" a bit", "small"), (" a little", "small"), (" slightly", "small"),
    (" a lot", "large"), (" significantly", "large"),
)  # fmt: skip
COLORS: dict[str, tuple[str, ...]] = {
    "red": ("red",), "blue": ("blue",), "green": ("green",), "yellow": ("yellow",),
    "purple": ("purple", "violet"), "orange": ("orange",), "pink": ("pink",), "white": ("white",),
}  # fmt: skip
MODES: dict[str, tuple[str, ...]] = {
    "cool": ("cooling", "cool"), "heat": ("heating", "heat"), "dry": ("dry", "drying"),
    "auto": ("auto", "automatic"),
}  # fmt: skip
