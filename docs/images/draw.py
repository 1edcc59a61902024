"""Draws the diagrams of docs/architecture.md: SVG, without fonts or scripts of others.

python docs/images/draw.py
"""

import dataclasses
import html
import pathlib
from collections.abc import Sequence

HERE = pathlib.Path(__file__).parent
INK, GREY, PALE, BLUE = "#1f2937", "#9ca3af", "#f3f4f6", "#2563eb"
SEGMENTS = ("#2563eb", "#f59e0b", "#10b981", "#db2777")
FONT = "Helvetica, Arial, sans-serif"
MONO = "Menlo, Consolas, monospace"


def text(
    x: float,
    y: float,
    *,
    content: str,
    size: int = 13,
    colour: str = INK,
    bold: bool = False,
    mono: bool = False,
    anchor: str = "start",
) -> str:
    family, weight = (MONO if mono else FONT), ("bold" if bold else "normal")
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" '
        f'font-family="{family}" font-weight="{weight}" text-anchor="{anchor}">'
        f"{html.escape(content)}</text>"
    )


def rect(
    x: float,
    y: float,
    *,
    width: float,
    height: float,
    fill: str = "white",
    stroke: str = "none",
    radius: float = 0,
) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
        f'rx="{radius:g}" fill="{fill}" stroke="{stroke}"/>'
    )


def arrow(points: Sequence[tuple[float, float]]) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.6" '
        'marker-end="url(#head)"/>'
    )


def page(width: int, height: int, *, title: str, parts: Sequence[str]) -> str:
    head = (
        '<defs><marker id="head" markerWidth="9" markerHeight="9" refX="7" refY="4" '
        f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>'
    )
    body = "\n".join([rect(0, 0, width=width, height=height), head, *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{html.escape(title)}">\n'
        f"<title>{html.escape(title)}</title>\n{body}\n</svg>\n"
    )


def frames(x: float, y: float, *, given: Sequence[bool], size: float = 17) -> str:
    """Frames of a video, the given ones dark."""
    return "".join(
        rect(
            x + i * (size + 3),
            y,
            width=size,
            height=size,
            fill=GREY if known else "#dbeafe",
            stroke=INK,
        )
        for i, known in enumerate(given)
    )


def noise(x: float, y: float, *, given: Sequence[bool], size: float = 17) -> str:
    """Latent frames: given ones dark, unknown ones noise."""
    parts = [frames(x, y, given=given, size=size)]
    for i, known in enumerate(given):
        for j in range(0 if known else 12):
            dx, dy = (j * 7 + i * 5) % 15 + 1, (j * 11 + i * 3) % 15 + 1
            dot = rect(x + i * (size + 3) + dx, y + dy, width=2, height=2, fill=BLUE)
            parts.append(dot)
    return "".join(parts)


def row(
    x: float, y: float, *, width: float, lengths: Sequence[int], height: float = 17
) -> str:
    """A packed row: segments in their colours, then padding."""
    total = sum(lengths)
    parts, start = [], x
    for i, length in enumerate(lengths):
        wide = width * length / total
        last = i == len(lengths) - 1
        fill = PALE if last else SEGMENTS[i]
        parts.append(
            rect(start, y, width=wide, height=height, fill=fill, stroke="white")
        )
        start += wide
    outline = rect(x, y, width=width, height=height, fill="none", stroke=INK)
    return "".join([*parts, outline])


@dataclasses.dataclass(frozen=True)
class Box:
    """A station: what it is, what it holds, where its code is."""

    title: str
    lines: tuple[str, ...]
    code: str
    glyph: str = ""


WIDTH, HEIGHT, GAP = 232, 148, 46


def stations(boxes: Sequence[Box], *, labels: Sequence[str], top: float) -> list[str]:
    """Boxes in rows of four, joined by arrows that say what happens between them."""
    parts: list[str] = []
    for i, box in enumerate(boxes):
        x, y = 16 + (i % 4) * (WIDTH + GAP), top + (i // 4) * (HEIGHT + 58)
        parts.append(
            rect(x, y, width=WIDTH, height=HEIGHT, fill=PALE, stroke=GREY, radius=8)
        )
        parts.append(text(x + 12, y + 24, content=box.title, size=16, bold=True))
        parts.append(f'<g transform="translate({x + 12:g},{y + 36:g})">{box.glyph}</g>')
        for j, line in enumerate(box.lines):
            parts.append(text(x + 12, y + 76 + 17 * j, content=line, size=12))
        parts.append(
            text(
                x + 12,
                y + HEIGHT - 10,
                content=box.code,
                size=10,
                colour="#4b5563",
                mono=True,
            )
        )
        if i == 0:
            continue
        label = labels[i - 1]
        if i % 4:
            parts.append(arrow([(x - GAP + 2, y + 48), (x - 2, y + 48)]))
            parts.append(
                text(x - GAP / 2, y + 38, content=label, size=10, anchor="middle")
            )
        else:
            right, above = 16 + 3 * (WIDTH + GAP) + WIDTH / 2, y - 58
            middle = y - 29
            parts.append(
                arrow(
                    [
                        (right, above + 2),
                        (right, middle),
                        (x + WIDTH / 2, middle),
                        (x + WIDTH / 2, y - 2),
                    ]
                )
            )
            parts.append(
                text(
                    (right + x + WIDTH / 2) / 2,
                    middle - 6,
                    content=label,
                    size=11,
                    anchor="middle",
                )
            )
    return parts


FIRST = (True, False, False, False, False)
PACKED = (5, 3, 2, 4, 2)


TO_A_VIDEO = (
    Box(
        "Prompt",
        ("text, and pixels to keep:", "nothing, a frame, a clip, a mask"),
        "generation/tasks.py",
        text(0, 16, content="“it moves right” +", size=12)
        + frames(118, 2, given=FIRST[:1]),
    ),
    Box(
        "Job",
        (
            "Conditioning: video [T,H,W,3]",
            "and a mask of what is kept;",
            "text, seed",
        ),
        "generation/conditioning.py",
        frames(0, 2, given=FIRST * 1 + (False,) * 4),
    ),
    Box(
        "Canvas",
        (
            "latent [t,h,w,z] and",
            "cond_mask [t,h,w]; the empty",
            "canvas is text-to-video",
        ),
        "generation/canvas.py",
        frames(0, 2, given=FIRST[:3]),
    ),
    Box(
        "Segment",
        (
            "tokens [n,P], positions [n,3],",
            "cond_mask [n], text [m];",
            "one clip, one window",
        ),
        "ops/packing.py",
        rect(0, 2, width=30, height=17, fill=GREY, stroke=INK)
        + rect(30, 2, width=90, height=17, fill=SEGMENTS[0], stroke=INK),
    ),
    Box(
        "Packed",
        (
            "tokens [B,N,P], segment ids,",
            "positions, noise levels, text;",
            "jobs of all sizes in one row",
        ),
        "generation/batching.py",
        row(0, 2, width=200, lengths=PACKED),
    ),
    Box(
        "Denoised row",
        (
            "the sampler goes from level 1",
            "to 0; given tokens stay at",
            "level 0, bit for bit",
        ),
        "generation/sampling.py, nn/dit.py",
        row(0, 2, width=88, lengths=PACKED)
        + arrow([(92, 10), (108, 10)])
        + row(112, 2, width=88, lengths=PACKED),
    ),
    Box(
        "Latent",
        (
            "tokens back on their canvas,",
            "window after window, tiles",
            "averaged where they overlap",
        ),
        "generation/windows.py",
        frames(0, 2, given=(True, True, True)),
    ),
    Box(
        "Video",
        (
            "uint8 [T,H,W,3]: decoded,",
            "kept pixels put back,",
            "with a record of how",
        ),
        "media/video.py",
        frames(0, 2, given=(True,) * 9),
    ),
)


def prompt() -> str:
    """From a prompt to a video."""
    labels = ("", "encode", "patchify", "pack: best fit", "denoise", "unpack", "decode")
    return page(
        1100,
        390,
        title="Prompt, job, canvas, segment, packed row, denoised row, latent, video",
        parts=stations(TO_A_VIDEO, labels=labels, top=16),
    )


TO_A_LOSS = (
    Box(
        "Clip",
        (
            "a record: encoded video,",
            "captions by source, fps;",
            "resized to the patch grid",
        ),
        "data_pipelines/records.py",
        frames(0, 2, given=(True,) * 9),
    ),
    Box(
        "Latent",
        ("[t,h,w,z] of the trained", "autoencoder, cached with", "its digest"),
        "data_pipelines/latents.py",
        frames(0, 2, given=(True,) * 3),
    ),
    Box(
        "Segment",
        (
            "normalised patches [n,P],",
            "positions (time, row, column),",
            "a caption's tokens",
        ),
        "data_pipelines/transforms.py",
        rect(0, 2, width=120, height=17, fill=SEGMENTS[0], stroke=INK),
    ),
    Box(
        "Packed",
        (
            "clips and images of all sizes",
            "in rows of N tokens;",
            "99.7 % of a row is clips",
        ),
        "data_pipelines/packing.py",
        row(0, 2, width=200, lengths=PACKED),
    ),
    Box(
        "Noisy row",
        (
            "each segment draws a level t",
            "and a mask of what is known:",
            "x = alpha x0 + sigma noise",
        ),
        "train/denoising.py, mask_sampling.py",
        noise(0, 2, given=FIRST * 1 + (False,) * 4),
    ),
    Box(
        "Prediction",
        (
            "[B,N,P]: the velocity of every",
            "token; attention stays inside",
            "a segment",
        ),
        "nn/dit.py",
        row(0, 2, width=200, lengths=PACKED),
    ),
    Box(
        "Loss",
        ("squared error over unknown", "tokens, each segment", "counting as much"),
        "diffusion/loss.py",
        text(0, 17, content="Σ w |v - v*|² / P", size=14, mono=True),
    ),
    Box(
        "Model",
        (
            "moving average of the",
            "parameters, its autoencoder",
            "and vocabulary: VIDEO/model",
        ),
        "train/loop.py, pretrained/",
        rect(0, 2, width=52, height=17, fill="#e0e7ff", stroke=INK)
        + rect(56, 2, width=52, height=17, fill="#e0e7ff", stroke=INK)
        + rect(112, 2, width=52, height=17, fill="#e0e7ff", stroke=INK),
    ),
)


def training() -> str:
    """From a clip to the loss."""
    labels = (
        "encode",
        "patchify",
        "pack",
        "draw level, mask, noise",
        "DiT",
        "",
        "step",
    )
    return page(
        1100,
        390,
        title="Clip, latent, segment, packed row, noisy row, prediction, loss, model",
        parts=stations(TO_A_LOSS, labels=labels, top=16),
    )


CLIPS = (
    ("clip", "5 x 4 x 6 patches", 120, (46, 31), 5),
    ("portrait clip", "3 x 6 x 4", 72, (31, 46), 3),
    ("image", "1 x 6 x 8", 48, (62, 46), 1),
    ("short clip", "4 x 4 x 6", 96, (46, 31), 4),
)


CAPACITY = 384  # of the row, in tokens


def packing() -> str:
    """What a packed row is, and which of its tokens attend to which."""
    return page(
        1080,
        316,
        title="Four clips in one packed row, and its attention",
        parts=[*clips(16.0), *packed_row(16.0, width=640), *attention(800.0, top=44.0)],
    )


def clips(x: float) -> list[str]:
    """The clips that share the row, each with its patches."""
    parts = []
    for i, (name, patches, tokens, (w, h), count) in enumerate(CLIPS):
        for k in reversed(range(count)):
            parts.append(
                rect(
                    x + 7 * k,
                    78 - h - 5 * k + 12,
                    width=w,
                    height=h,
                    fill=SEGMENTS[i],
                    stroke="white",
                )
            )
        parts.append(text(x, 112, content=name, bold=True))
        parts.append(text(x, 129, content=f"{patches} = {tokens}", size=11))
        x += 164
    return parts


def packed_row(left: float, *, width: float) -> list[str]:
    """Tokens, segment ids and noise levels of the row."""
    title = f"one packed row of N = {CAPACITY} tokens"
    parts = [text(left, 168, content=title, bold=True)]
    start, scale = left, width / CAPACITY
    for i, (_, _, tokens, _, _) in enumerate(CLIPS):
        wide = tokens * scale
        box = {"height": 34, "stroke": "white"}
        parts.append(rect(start, 178, width=wide, fill=SEGMENTS[i], **box))
        if i == 0:  # of which a frame is given
            parts.append(rect(start, 178, width=24 * scale, fill=GREY, **box))
        middle = start + wide / 2
        for y, line in ((232, str(i + 1)), (254, f"t{i + 1}")):
            parts.append(text(middle, y, content=line, anchor="middle", mono=True))
        start += wide
    padded = left + width - start
    parts.append(rect(start, 178, width=padded, height=34, fill=PALE, stroke=GREY))
    parts.append(text(start + padded / 2, 232, content="0", anchor="middle", mono=True))
    parts.append(rect(left, 178, width=width, height=34, fill="none", stroke=INK))
    beside = ((232, "segment ids"), (254, "noise levels"), (199, "tokens"))
    below = (
        (
            284,
            "Grey tokens are given (the first frame of an image-to-video job): "
            "level 0. Every token also has a position",
        ),
        (
            301,
            "(time, row, column) of its own clip, so the model sees each clip as if it "
            "were alone. Id 0 is padding.",
        ),
    )
    parts += [text(left + width + 12, y, content=line, size=12) for y, line in beside]
    return parts + [text(left, y, content=line, size=12) for y, line in below]


def attention(left: float, *, top: float, side: float = 240.0) -> list[str]:
    """The blocks of queries and keys, those that are computed in colour."""
    parts = [
        text(left, 28, content="which tokens attend to which", bold=True),
        rect(left, top, width=side, height=side, fill=PALE, stroke=GREY),
    ]
    at = 0.0
    for i, (_, _, tokens, _, _) in enumerate(CLIPS):
        wide = side * tokens / CAPACITY
        parts.append(
            rect(left + at, top + at, width=wide, height=wide, fill=SEGMENTS[i])
        )
        at += wide
    for k in range(1, 12):
        line = k * side / 12
        for a, b in (((line, 0), (line, side)), ((0, line), (side, line))):
            parts.append(
                f'<line x1="{left + a[0]:g}" y1="{top + a[1]:g}" x2="{left + b[0]:g}" '
                f'y2="{top + b[1]:g}" stroke="white" stroke-width="1"/>'
            )
    below = "blocks without colour are never computed"
    return [*parts, text(left, 301, content=below, size=12)]


DIAGRAMS = {"prompt.svg": prompt, "training.svg": training, "packing.svg": packing}


def main() -> None:
    for name, draw in DIAGRAMS.items():
        (HERE / name).write_text(draw())


if __name__ == "__main__":
    main()
