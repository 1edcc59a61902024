"""What a model was trained on: that to which prompts, sizes and lengths can be held.

It is written when training exports a model (`experiments.stages.video.export`) and read
by `generation.familiarity`.
"""

import dataclasses
import re
from collections.abc import Iterable

MAX_WORDS = 4096  # of captions; more of them are no list that a prompt can be held to
# Letters of any script, with what joins them: "t-shirt", "dog's".
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The clips of training: extremes of their sizes, and the words of their captions.

    Attributes:
      sides: pixels of the shortest and of the longest side.
      aspects: least and greatest width / height.
      frames: of the shortest and of the longest clip; an image has 1.
      fps: lowest and highest frames per second; of images none is counted.
      words: of captions, in lower case and sorted; none where they are unknown, or
        more than `MAX_WORDS`.
    """

    sides: tuple[int, int]
    aspects: tuple[float, float]
    frames: tuple[int, int]
    fps: tuple[float, float]
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("sides", "aspects", "frames", "fps"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} {low} to {high}: need 0 < least <= greatest")

    def merged(self, other: "TrainingData") -> "TrainingData":
        """Of the clips of both, such as those of a model and of its fine-tuning."""
        extremes = {
            name: (
                min(getattr(self, name)[0], getattr(other, name)[0]),
                max(getattr(self, name)[1], getattr(other, name)[1]),
            )
            for name in ("sides", "aspects", "frames", "fps")
        }
        for one, clips in ((self, other), (other, self)):
            if one.frames == (1, 1):  # images have no rate of their own
                extremes["fps"] = clips.fps
        known = self.words and other.words
        words = known_words({*self.words, *other.words}) if known else ()
        return TrainingData(**extremes, words=words)


@dataclasses.dataclass(frozen=True)
class Clip:
    """What counts of a clip.

    Attributes:
      frames: number of frames, 1 for an image.
      size: width and height in pixels.
      fps: frames per second.
      captions: all that training may show with it.
    """

    frames: int
    size: tuple[int, int]
    fps: float
    captions: tuple[str, ...] = ()


def measure(clips: Iterable[Clip], *, all_seen: bool = True) -> TrainingData:
    """Extremes and words of clips.

    Args:
      clips: at least one.
      all_seen: whether these are all; of a sample the words are not listed.
    """
    widths, frames, rates, words = set(), set(), set(), set()
    for clip in clips:
        widths.add(clip.size)
        frames.add(clip.frames)
        if clip.frames > 1:
            rates.add(clip.fps)
        if len(words) <= MAX_WORDS:
            words.update(word for text in clip.captions for word in words_of(text))
    sides = [side for size in widths for side in size]
    aspects = [width / height for width, height in widths]
    rates = rates or {1.0}
    return TrainingData(
        sides=(min(sides), max(sides)),
        aspects=(min(aspects), max(aspects)),
        frames=(min(frames), max(frames)),
        fps=(min(rates), max(rates)),
        words=known_words(words) if all_seen else (),
    )


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, in order; digits and signs are none."""
    return _WORD.findall(text.lower())


def known_words(words: Iterable[str]) -> tuple[str, ...]:
    """Sorted; none where there are more than `MAX_WORDS`."""
    found = tuple(sorted(set(words)))
    return found if len(found) <= MAX_WORDS else ()
