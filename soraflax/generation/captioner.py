"""Words of clips: a trained captioner, and what it says of clips of any size.

    captioner = soraflax.Captioner.load()   # the one that is shipped, or a folder's
    captioner("clip.mp4")                   # 'a large red circle moves right on ...'
    captioner([first, second], beams=4)     # several, in shared rows

A clip is brought to a size of training (`ops.fit`), encoded, and packed with others.
"""

import functools
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from soraflax import media
from soraflax.generation import resizing
from soraflax.nn import caption_decoding, decoding
from soraflax.nn import captioner as networks
from soraflax.ops import fit as fitting
from soraflax.ops import grid as grids
from soraflax.ops import packing
from soraflax.pretrained import captioners, models

# A clip: a video, its file, or `[T, H, W, 3]` uint8 at the reference rate.
Clip = media.Video | np.ndarray | str | os.PathLike[str]
MAX_SEGMENTS = 8  # clips in a row
MAX_ROWS = 8  # rows that are decoded together


class Captioner:
    """A trained captioner.

    Attributes:
      model: its parameters, sizes, vocabulary, and the autoencoder whose latents it
        reads.
    """

    def __init__(self, model: captioners.CaptionerModel) -> None:
        self.model = model

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str] | None = None,
        *,
        codec: models.AutoencoderModel | None = None,
        cache: pathlib.Path | None = None,
    ) -> "Captioner":
        """Read a trained captioner; arguments and errors of `load_captioner`."""
        return cls(captioners.load_captioner(folder, codec=codec, cache=cache))

    def __repr__(self) -> str:
        return f"Captioner({self.model.digest[:12]}, {self.model.config.captioner})"

    def __call__(
        self,
        clips: Clip | Sequence[Clip],
        *,
        beams: int = 1,
        top_p: float | None = None,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> Any:
        """The caption of a clip, or of each of a list of them.

        Args:
          clips: a clip, or a list of them.
          beams: hypotheses that are kept; 1 takes the most probable word each time.
          top_p: draws words from the smallest set of this probability instead.
          temperature: divisor of the logits of words that are drawn.
          seed: PRNG seed of such draws.

        Returns:
          A string, or a list of them.

        Raises:
          MediaError: a clip that cannot be read.
          ValueError: a setting out of its range, or an array that is no clip.
        """
        config = self.decoding_config(beams=beams, top_p=top_p, temperature=temperature)
        several = isinstance(clips, list | tuple)
        given: Any = clips if several else [clips]
        captions = list(self.captions(given, config, seed=seed))
        return captions if several else captions[0]

    def decoding_config(self, **settings: Any) -> decoding.DecodingConfig:
        """How captions of the trained length are chosen.

        Raises:
          ValueError: a setting out of its range.
        """
        return decoding.DecodingConfig(
            max_length=self.model.config.text_length, **settings
        )

    def captions(
        self, clips: Iterable[Clip], config: decoding.DecodingConfig, *, seed: int = 0
    ) -> Any:
        """An iterator of captions, one for each clip, in order; errors as of a call."""
        segments = (self.segment(clip) for clip in clips)
        yield from self.of_segments(segments, config, seed=seed)

    def of_segments(
        self,
        segments: Iterable[packing.Segment],
        config: decoding.DecodingConfig,
        *,
        seed: int = 0,
    ) -> Any:
        """`captions` of clips that are encoded already (`segment_of`)."""
        for number, rows in enumerate(self._batches(segments)):
            key = jax.random.fold_in(jax.random.key(seed), number)
            packed = self._assemble(rows)
            fixed = self.model.config.captioner, config, self.model.tokenizer.eos_id
            ids = np.asarray(_decode(self._params, packed, key, *fixed).ids)
            ids = ids.reshape(packed.segments.shape[0], packed.max_segments, -1)
            for index, row in enumerate(rows):
                for place in range(len(row)):
                    yield self.model.tokenizer.decode(ids[index, place])

    def segment(self, clip: Clip) -> packing.Segment:
        """A clip as the captioner reads it.

        Raises:
          MediaError: a clip that cannot be read.
          ValueError: an array that is no clip.
        """
        video = self._video(clip)
        frames, height, width = video.frames.shape[:3]
        fit = fitting.plan_fit(
            frames,
            height,
            width=width,
            fps=video.fps,
            grid=self._grid,
            config=self._fit_config(video),
        )
        shown = video.frames[:: fit.stride][: fit.frames]
        held = np.repeat(shown[-1:], fit.frames - len(shown), axis=0)
        shown = np.concatenate([shown, held])
        if video.size != (fit.width, fit.height):
            shown = resizing.cover(shown, (fit.width, fit.height))
        x = shown[None].astype(np.float32) / np.float32(127.5) - np.float32(1)
        latent = np.asarray(self.model.autoencoder.encode(x), np.float32)[0]
        return self.segment_of(latent, fps=fit.fps)

    def segment_of(
        self, latent: Float[np.ndarray, "t h w z"], *, fps: float
    ) -> packing.Segment:
        """A latent, not normalised, as the captioner reads it.

        Raises:
          ValueError: a latent of more tokens than a row of training, or off its grid.
        """
        config = self.model.config
        segment = packing.Segment.from_latent(
            config.statistics.normalize(latent),
            np.array([networks.START], np.int32),
            patch=config.captioner.patch,
            time_step=config.reference_fps / fps,
        )
        if len(segment) > config.max_tokens:
            raise ValueError(
                f"a clip of {len(segment)} tokens: this captioner reads "
                f"{config.max_tokens} or less"
            )
        return segment

    def _video(self, clip: Clip) -> media.Video:
        if isinstance(clip, np.ndarray):
            if clip.ndim == 3:
                clip = clip[None]
            if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8:
                raise ValueError(
                    f"a clip of {clip.dtype} {clip.shape}: give uint8 [T, H, W, 3]"
                )
            return media.Video(clip, self.model.config.reference_fps)
        video = clip if isinstance(clip, media.Video) else media.read_video(clip)
        if len(video) > 1:
            return video
        return media.Video(video.frames, self.model.config.reference_fps)

    @functools.cached_property
    def _grid(self) -> grids.Grid:
        sizes = self.model.autoencoder.config
        return grids.Grid(
            sizes.temporal_ratio,
            sizes.spatial_ratio,
            patch=self.model.config.captioner.patch,
        )

    def _fit_config(self, video: media.Video) -> fitting.FitConfig:
        """At the rate of training, or as slowly as shows a long clip to its end."""
        config = self.model.config
        seconds = len(video) / video.fps
        return fitting.FitConfig(
            max_tokens=config.max_tokens,
            max_frames=config.max_frames,
            fps=min(config.reference_fps, config.max_frames / seconds),
        )

    def _batches(
        self, segments: Iterable[packing.Segment]
    ) -> Iterable[list[list[packing.Segment]]]:
        """Rows in the order of clips, `MAX_ROWS` together."""
        rows: list[list[packing.Segment]] = []
        for segment in segments:
            used = sum(map(len, rows[-1])) if rows else 0
            fits = used + len(segment) <= self.model.config.max_tokens
            if rows and fits and len(rows[-1]) < MAX_SEGMENTS:
                rows[-1].append(segment)
                continue
            if len(rows) == MAX_ROWS:
                yield rows
                rows = []
            rows.append([segment])
        if rows:
            yield rows

    def _assemble(self, rows: list[list[packing.Segment]]) -> packing.Packed:
        """Rows of one of few shapes, each of which is compiled for."""
        slots = grids.power_of_two(max(map(len, rows)))
        shape = packing.RowShape(self.model.config.max_tokens, slots, slots)
        empty = grids.power_of_two(len(rows)) - len(rows)
        return packing.assemble([*rows, *[[]] * empty], shape)

    @functools.cached_property
    def _params(self) -> Any:
        return jax.device_put(self.model.params)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _decode(
    params: Any,
    packed: packing.Packed,
    key: jax.Array,
    sizes: networks.CaptionerConfig,
    config: decoding.DecodingConfig,
    end: int,
) -> decoding.Decoded:
    return caption_decoding.decode(
        params, packed, config=sizes, decoding_config=config, end=end, key=key
    )
