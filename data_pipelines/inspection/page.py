"""A dataset drawn: charts and thumbnails with Pillow, once for PNG and for HTML."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.builders import files
from data_pipelines.inspection import facts as facts_lib

_INK, _SOFT, _LINE, _PAPER = "#1b1f24", "#59636e", "#d0d7de", "#ffffff"
_BAR, _OUT = "#2f6fd6", "#b3431f"
_CHART = (360, 190)
_THUMB = (180, 120)
_WIDTH, _MARGIN, _GAP = 1180, 24, 14
_BINS = 24


def charts(facts: Mapping[str, Any]) -> dict[str, Image.Image]:
    """A histogram of everything that clips have one of, by its title."""
    drawn = {name: histogram(name, own) for name, own in facts["values"].items() if own}
    for name, own in facts["captions"].items():
        drawn[f"words of {name}"] = histogram(f"words of {name}", own["lengths"])
        drawn[f"commonest of {name}"] = bars(f"commonest of {name}", own["words"])
    if facts["packing"]["tokens a clip"]:
        title = "tokens a clip"
        drawn[title] = histogram(title, facts["packing"][title])
    drawn["sizes"] = bars("sizes", facts["sizes"])
    if facts["rejected"]:
        drawn["left out"] = bars("left out", facts["rejected"], colour=_OUT)
    return drawn


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _canvas(title: str, note: str = "") -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", _CHART, _PAPER)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, _CHART[0] - 1, _CHART[1] - 1), outline=_LINE)
    draw.text((12, 8), title, _INK, font=_font(15))
    draw.text((_CHART[0] - 12, 10), note, _SOFT, font=_font(12), anchor="ra")
    return image, draw


def histogram(title: str, values: Sequence[float]) -> Image.Image:
    """Bars of how many clips have how much, with the median."""
    data = np.asarray(values, np.float64)
    low, high = float(data.min()), float(data.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(data, bins=_BINS, range=(low, high))
    image, draw = _canvas(
        title, f"median {np.median(data):.4g}, at most {counts.max()}"
    )
    left, top, right, bottom = 14, 36, _CHART[0] - 14, _CHART[1] - 30
    step = (right - left) / _BINS
    for index, count in enumerate(counts.tolist()):
        height = (bottom - top) * count / max(1, counts.max())
        if count:
            x = left + index * step
            height = max(2, height)
            draw.rectangle((x, bottom - height, x + step - 2, bottom), fill=_BAR)
    draw.line((left, bottom + 1, right, bottom + 1), fill=_LINE)
    for x, value, anchor in ((left, edges[0], "la"), (right, edges[-1], "ra")):
        draw.text((x, bottom + 7), f"{value:.4g}", _SOFT, font=_font(12), anchor=anchor)
    return image


def bars(title: str, counts: Mapping[str, int], *, colour: str = _BAR) -> Image.Image:
    """The greatest of some counts, with their names."""
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:7]
    image, draw = _canvas(title, f"{len(counts)} kinds")
    most = max((count for _, count in shown), default=1)
    for row, (name, count) in enumerate(shown):
        y, label = 36 + row * 21, _shortened(files.printable(name), 30)
        length = (_CHART[0] - 250) * count / most
        draw.text((12, y + 1), label, _INK, font=_font(12))
        draw.rectangle((204, y + 2, 204 + max(2, length), y + 14), fill=colour)
        draw.text((204 + length + 8, y + 1), str(count), _SOFT, font=_font(12))
    return image


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def thumbnail(picture: facts_lib.Picture) -> Image.Image:
    """A frame within a box, over a line of what it is."""
    image = Image.new("RGB", (_THUMB[0], _THUMB[1] + 34), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, _THUMB[0] - 1, _THUMB[1] - 1), fill="#f2f4f7")
    if picture.frame is not None:
        frame = Image.fromarray(picture.frame)
        frame.thumbnail(_THUMB)
        at = ((_THUMB[0] - frame.width) // 2, (_THUMB[1] - frame.height) // 2)
        image.paste(frame, at)
    name = _shortened(files.printable(picture.name), 30)
    draw.text((0, _THUMB[1] + 3), name, _INK, font=_font(11))
    said = _shortened(files.printable(picture.said), 34)
    draw.text((0, _THUMB[1] + 18), said, _SOFT, font=_font(10))
    return image


def headline(facts: Mapping[str, Any]) -> list[str]:
    """Lines that say the whole of it."""
    pack, outcomes = facts["packing"], facts["outcomes"]

    def counted(counts: Mapping[str, Any]) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in counts.items())

    efficiency = pack["efficiency"]
    packed = "too few clips to fill a row"
    if efficiency is not None:
        packed = f"{efficiency:.3f} of the tokens of full rows used"
    return [
        f"{sum(facts['splits'].values()):,} clips ({counted(facts['splits'])}), "
        f"{facts['hours']:.3g} hours, {facts['bytes'] / 2**20:,.1f} MiB",
        f"inputs: {counted(outcomes) or 'not counted'}",
        f"packed into rows of {pack['row']['tokens']:,} tokens, at most "
        f"{pack['max_tokens']:,} a clip: {packed}, {pack['clips a row']:.3g} clips a "
        f"row, {pack['rows']:,} rows",
    ]


def draw_page(
    facts: Mapping[str, Any],
    shown: Sequence[facts_lib.Picture],
    *,
    rejected: Sequence[facts_lib.Picture],
) -> Image.Image:
    """All of it as one picture."""
    blocks: list[tuple[str, list[Image.Image]]] = [
        ("", list(charts(facts).values())),
        ("Clips", [thumbnail(p) for p in shown]),
        ("Rejected", [thumbnail(p) for p in rejected]),
    ]
    blocks = [(title, images) for title, images in blocks if images]
    top = _MARGIN + 40 + 22 * len(headline(facts)) + _GAP
    height = top
    for title, images in blocks:
        rows, (_, tall) = _rows(images)
        height += (34 if title else 0) + len(rows) * (tall + _GAP)
    page = Image.new("RGB", (_WIDTH, height + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(page)
    name = _shortened(files.printable(facts["dataset"]), 90)
    draw.text((_MARGIN, _MARGIN), name, _INK, font=_font(24))
    for number, line in enumerate(headline(facts)):
        draw.text((_MARGIN, _MARGIN + 40 + 22 * number), line, _SOFT, font=_font(14))
    y = top
    for title, images in blocks:
        if title:
            draw.text((_MARGIN, y), title, _INK, font=_font(20))
            y += 34
        rows, (wide, tall) = _rows(images)
        for row in rows:
            for column, image in enumerate(row):
                page.paste(image, (_MARGIN + column * (wide + _GAP), y))
            y += tall + _GAP
    return page


def _rows(
    images: Sequence[Image.Image],
) -> tuple[list[Sequence[Image.Image]], tuple[int, int]]:
    """Images of one size in rows as wide as the page, and that size."""
    wide, tall = images[0].size
    across = (_WIDTH - 2 * _MARGIN + _GAP) // (wide + _GAP)
    rows = [images[at : at + across] for at in range(0, len(images), across)]
    return rows, (wide, tall)


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1b1f24;margin:24px auto;max-width:1180px;
padding:0 16px}
h1{font-size:24px;overflow-wrap:anywhere}h2{font-size:20px;margin-top:32px}
p{color:#59636e;margin:2px 0}
.grid{display:flex;flex-wrap:wrap;gap:14px}figure{margin:0;max-width:100%}
img{max-width:100%;display:block}figcaption{font-size:12px;color:#59636e;
max-width:180px;overflow-wrap:anywhere}
table{border-collapse:collapse;font-size:13px;width:100%}
th,td{border-bottom:1px solid #d0d7de;text-align:left;padding:4px 8px;
overflow-wrap:anywhere}
th,td:nth-child(2),td:nth-child(3){white-space:nowrap;overflow-wrap:normal}
"""


def write_html(
    facts: Mapping[str, Any],
    shown: Sequence[facts_lib.Picture],
    *,
    rejected: Sequence[facts_lib.Picture],
) -> str:
    """The page: one file, without scripts or anything from elsewhere."""
    title = _text(facts["dataset"])
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<style>{_STYLE}</style><h1>{title}</h1>",
        *(f"<p>{_text(line)}</p>" for line in headline(facts)),
        "<h2>What clips are like</h2><div class=grid>",
        *(_figure(image, name) for name, image in charts(facts).items()),
        "</div><h2>Clips</h2><div class=grid>",
        *map(_photo, shown),
        "</div>",
    ]
    if facts["rejections"]:
        parts += ["<h2>What was left out</h2><div class=grid>", *map(_photo, rejected)]
        parts += ["</div>", _table(facts["rejections"])]
    return "\n".join(parts) + "\n"


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    names = ("input", "outcome", "step", "reason", "threshold", "value")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = [
        "<tr>" + "".join(f"<td>{_text(line.get(n))}</td>" for n in names) + "</tr>"
        for line in lines
    ]
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _photo(picture: facts_lib.Picture) -> str:
    caption = f"{_text(picture.name)}<br>{_text(picture.said)}"
    if picture.frame is None:
        return f"<figure><figcaption>{caption}</figcaption></figure>"
    image = Image.fromarray(picture.frame)
    image.thumbnail(_THUMB)
    return _figure(image, picture.name, caption=caption)


def _figure(image: Image.Image, name: str, *, caption: str = "") -> str:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    data = base64.b64encode(out.getvalue()).decode("ascii")
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return (
        f'<figure><img alt="{_text(name)}" width={image.width} height={image.height} '
        f'src="data:image/png;base64,{data}">{below}</figure>'
    )


def _text(value: Any) -> str:
    return html.escape(files.printable("" if value is None else str(value)))
