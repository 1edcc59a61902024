"""From a clip's truth to words, and from words back to attributes.

The grammar, with `[...]` optional:

    caption = subjects ['on a' [dotted] background 'background'] {'.' sentence}   (1)
    subjects = subject {', ' subject} ['and' subject]                             (2)
    subject = ('a' | 'two' | 'three') size colour shape [verb]                    (3)

`short` stops after the subjects; `detailed` goes on to say the background, every
event, the occluder and the camera. `parse` reads (1) to (3) back.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.worlds import palette

_VERBS = {
    "left": ("moves left", "move left"),
    "right": ("moves right", "move right"),
    "up": ("moves up", "move up"),
    "down": ("moves down", "move down"),
    "still": ("stays still", "stay still"),
    "bounces": ("bounces", "bounce"),
    "drifts": ("drifts", "drift"),
}
_COUNTS = {"a": 1, "two": 2, "three": 3}


def short(objects: Sequence[Mapping[str, Any]]) -> str:
    """Equation (2): "a large red circle moves right". Equal objects are counted."""
    groups: dict[tuple, int] = {}
    for item in objects:
        kind = (item["size"], item["colour"], item["shape"], item.get("verb"))
        groups[kind] = groups.get(kind, 0) + 1
    phrases = []
    for (size, colour, shape, verb), count in groups.items():
        word = list(_COUNTS)[count - 1]
        plural = "s" if count > 1 else ""
        phrase = f"{word} {size} {colour} {shape}{plural}"
        if verb is not None:
            phrase += " " + _VERBS[verb][count > 1]
        phrases.append(phrase)
    if len(phrases) == 1:
        return phrases[0]
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def detailed(truth: Mapping[str, Any]) -> str:
    """Everything the truth names, equation (1)."""
    texture = "dotted " if truth["dotted"] else ""
    text = f"{short(truth['objects'])} on a {texture}{truth['background']} background"
    events = [_event(event, truth["objects"]) for event in truth["events"]]
    sentences = list(dict.fromkeys(events))
    if truth["framing"] == "cut":
        sentences.append("part of the scene is out of frame")
    if truth["occluder"] is not None:
        sentences.append("a brown bar stands in front")
    if truth["pan"] is not None:
        sentences.append(f"the camera pans {truth['pan']}")
    return ". ".join([text, *sentences])


def _event(event: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> str:
    def name(index: int) -> str:
        return f"the {objects[index]['colour']} {objects[index]['shape']}"

    against = event["against"]
    other = name(int(against)) if against.isdigit() else f"the {against}"
    if other == name(event["body"]):
        other = "the other one"
    times = {1: "", 2: " twice"}.get(event["times"], f" {event['times']} times")
    return f"{name(event['body'])} bounces off {other}{times}"


def _any(names: Sequence[str]) -> str:
    return "|".join(names)


_SUBJECT = re.compile(
    rf"\b(?P<count>an?|two|three) (?:(?P<size>{_any(list(palette.RADII))}) )?"
    rf"(?:(?P<colour>{_any(list(palette.COLOURS))}) )?"
    rf"(?P<shape>{_any(list(palette.SHAPES))})s?"
    rf"(?: (?:(?P<still>stays? still)|moves? (?P<direction>left|right|up|down)))?\b"
)
_BACKGROUND = re.compile(
    rf"\bon an? (?:dotted )?(?P<name>{_any(list(palette.BACKGROUNDS))}) background\b"
)


def parse(text: str) -> dict[str, Any]:
    """The attributes a caption names, in the form of `attributes`; absent if unnamed.

    Raises:
      ValueError: the text names no body of this world.
    """
    text = " ".join(text.lower().split())
    objects: list[dict[str, str]] = []
    for match in _SUBJECT.finditer(text):
        fields = {k: match[k] for k in ("colour", "shape", "size", "direction")}
        if match["still"]:
            fields["direction"] = "still"
        item = {key: value for key, value in fields.items() if value is not None}
        objects += [item] * _COUNTS[match["count"].replace("an", "a")]
    if not objects:
        raise ValueError(f"no body named in {text!r}: try 'a large red circle'")
    background = _BACKGROUND.search(text)
    return attributes(objects, background=background["name"] if background else None)


def attributes(
    objects: Sequence[Mapping[str, Any]],
    *,
    background: str | None = None,
    framing: str | None = None,
) -> dict[str, Any]:
    """The one form in which truth, prompts and the judge's readings are compared.

    `objects` come largest first. The first, the subject, also gives the flat keys
    `colour`, `shape`, `size`, `direction`; beside them stand `count`, `background`
    and `framing` ('inside': no body is cut by the frame in any frame, or 'cut').
    What is None is left out.
    """
    keys = ("colour", "shape", "size", "direction")
    items = [{k: o[k] for k in keys if o.get(k) is not None} for o in objects]
    flat = dict(items[0]) if items else {}
    flat |= {"count": len(items), "background": background, "framing": framing}
    return {k: v for k, v in flat.items() if v is not None} | {"objects": items}
