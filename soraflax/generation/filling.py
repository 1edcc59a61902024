"""Requests on their way to latents, window by window and tile by tile."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from soraflax.generation import batching as rows_lib
from soraflax.generation import canvas as canvases
from soraflax.generation import windows
from soraflax.nn import autoencoder
from soraflax.ops import packing
from soraflax.ops import patch as patches

MAX_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Request:
    """A canvas to be filled.

    Attributes:
      canvas: what is known, and the size of the rest.
      text: what it shows.
      negative: what it should not show; takes the empty caption's place in guidance.
      seed: 0 to 2**32 - 1.
    """

    canvas: canvases.Canvas
    text: str = ""
    negative: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed {self.seed}: use one from 0 to {MAX_SEED}")


@dataclasses.dataclass(frozen=True)
class Form:
    """What turns canvases into segments and back.

    Attributes:
      patch: latent frames, rows and columns of a patch.
      statistics: of latents.
      encode: text to ids.
      block: tokens of an attention block.
    """

    patch: tuple[int, int, int]
    statistics: autoencoder.LatentStatistics
    encode: Callable[[str], np.ndarray]
    block: int


class Filling:
    """One request being filled.

    Attributes:
      request: it.
      spans: its windows, in latent frames.
      latent: `[t, h, w, z]`, what is made so far.
    """

    def __init__(
        self,
        request: Request,
        *,
        owner: int,
        grid: canvases.Grid,
        config: windows.WindowConfig,
    ) -> None:
        canvas = request.canvas
        self.request = request
        self.owner = owner
        self.tiles = windows.tiles(canvas, grid, config=config)
        self.spans = windows.spans(len(canvas.latent), config, patch=grid.patch[0])
        self.latent = np.zeros(canvas.latent.shape, np.float32)
        self.ramp = -(-config.share // max(grid.cell))

    def window(self, number: int) -> canvases.Canvas:
        """The canvas of a window, the ones before being made."""
        start, stop = self.spans[number]
        return windows.take(
            self.request.canvas,
            self.latent,
            start=start,
            stop=stop,
            done=self.made(number),
        )

    def made(self, number: int) -> int:
        """Latent frames that the windows before this one have made."""
        return self.spans[number - 1][1] if number else 0

    def items(self, number: int, form: Form) -> list[rows_lib.Item]:
        """What the transformer sees of a window: one item, or one for each tile.

        Raises:
          ValueError: a mask that cuts through patches, a text too long.
        """
        canvas, first = self.window(number), self.spans[number][0] // form.patch[0]
        grid = patches.grid_of(canvas.latent.shape, form.patch)
        found = []
        for tile in self.tiles:
            part = windows.crop(canvas, tile, patch=form.patch)
            text, negative = self.request.text, self.request.negative
            segment = canvases.to_segment(
                part,
                patch=form.patch,
                text=form.encode(text),
                statistics=form.statistics,
            )
            weights = None
            if len(self.tiles) > 1:
                weights = windows.weights(grid[0], tile, ramp=self.ramp)
            found.append(
                rows_lib.Item(
                    canvas=part,
                    segment=segment,
                    negative=dataclasses.replace(segment, text=form.encode(negative)),
                    seed=self.request.seed,
                    places=windows.places(grid, tile, first=first),
                    owner=self.owner,
                    tile=tile,
                    weights=weights,
                )
            )
        return found

    def put(
        self, number: int, item: rows_lib.Item, tokens: np.ndarray, *, form: Form
    ) -> None:
        """Take over what became of an item of a window."""
        latent = canvases.from_tokens(
            item.canvas, tokens, patch=form.patch, statistics=form.statistics
        )
        rows, columns = (
            span.scaled(size)
            for span, size in zip(item.tile, form.patch[1:], strict=True)
        )
        start, stop = self.spans[number]
        done = self.made(number)
        self.latent[done:stop, rows.start : rows.stop, columns.start : columns.stop] = (
            latent[done - start :]
        )

    def part(self, number: int) -> np.ndarray:
        """The latent frames that a window has added."""
        return self.latent[self.made(number) : self.spans[number][1]]


Batch = list[list[int]]


@dataclasses.dataclass(frozen=True)
class Round:
    """The windows of one number of all requests, as rows.

    Attributes:
      number: of the windows.
      everyone: all requests.
      work: those that have such a window.
      items: what the transformer sees of them.
      shape: of a row.
      batches: rows of items (by number) that are denoised at once.
      form: what turns canvases into segments and back.
    """

    number: int
    everyone: Sequence[Filling]
    work: Sequence[Filling]
    items: Sequence[rows_lib.Item]
    shape: packing.RowShape
    batches: Sequence[Batch]
    form: Form

    @classmethod
    def of(
        cls,
        everyone: Sequence[Filling],
        number: int,
        *,
        form: Form,
        trained: packing.RowShape,
        rows: int,
    ) -> "Round":
        """Args: all requests; which window; their form; rows of training, and how many
        at most are denoised at once. Tiles of one canvas always are.
        """
        work = [one for one in everyone if number < len(one.spans)]
        items = [item for one in work for item in one.items(number, form)]
        shape = rows_lib.row_shape(items, trained, block=form.block)
        packed = rows_lib.pack_rows(items, shape)
        if any(item.weights is not None for item in items):
            rows = len(packed)
        batches = [packed[i : i + rows] for i in range(0, len(packed), rows)]
        return cls(number, everyone, work, items, shape, batches, form)

    def rows(self, batch: Batch) -> rows_lib.Rows:
        """What the denoiser takes."""
        return rows_lib.Rows.of(batch, self.items, self.shape)

    def put(self, batch: Batch, tokens: np.ndarray) -> list[np.ndarray]:
        """Take over the tokens of a batch; returns the latents of all so far."""
        segments = [[self.items[i].segment for i in row] for row in batch]
        where = packing.segment_slices(segments, self.shape)
        owners = {one.owner: one for one in self.work}
        for row, (members, slices) in enumerate(zip(batch, where, strict=True)):
            for index, place in zip(members, slices, strict=True):
                item = self.items[index]
                found = tokens[row, place]
                owners[item.owner].put(self.number, item, found, form=self.form)
        return [one.latent for one in self.everyone]
