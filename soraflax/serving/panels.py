"""The parts of the page that change, as HTML: stage, status, uploads, record.

Everything that a visitor typed or a file is called is escaped. Files are named by
`url`, relative, so that the page may lie below any path.
"""

import base64
import html
import json
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from soraflax.serving import job_queue, studio

_PAPER_HEIGHT = 16  # of what is painted on, at most, in line heights
_SMALLEST_CANVAS = 512  # pixels across of what is painted on
_SHOWN = {
    "task": "task",
    "prompt": "prompt",
    "negative_prompt": "not",
    "seed": "seed",
    "version": "soraflax",
}


def url(path: pathlib.Path) -> str:
    """Where a page finds a file of a studio."""
    return f"gradio_api/file={urllib.parse.quote(str(path))}"


def empty_stage() -> str:
    """Nothing made yet."""
    return (
        '<div class="stage empty"><div class="hint"><span class="play"></span>'
        "<p>What you make appears here.</p>"
        '<p class="keys"><kbd>Ctrl</kbd> <kbd>Enter</kbd> generates, '
        "<kbd>Esc</kbd> cancels.</p>"
        "</div></div>"
    )


def preview_stage(preview: studio.Preview | None, size: tuple[int, int]) -> str:
    """What is being made: the last preview, or an empty frame of its shape."""
    shape = f'style="aspect-ratio: {size[0]} / {size[1]}"'
    if preview is None:
        return f'<div class="stage busy"><div class="frame blank" {shape}></div></div>'
    data = base64.b64encode(preview.gif).decode("ascii")
    return (
        f'<div class="stage busy"><img class="frame" {shape} alt="preview" '
        f'data-preview="{preview.number}" src="data:image/gif;base64,{data}"></div>'
    )


def result_stage(result: studio.Result) -> str:
    """What was made: a video that plays, or an image."""
    width, height = result.size
    shape = f'style="aspect-ratio: {width} / {height}"'
    # Small pictures are shown larger, as they are.
    kind = "frame sharp" if width < 256 else "frame"
    source = f'src="{url(result.video)}"'
    alt = html.escape(str(result.metadata.get("prompt", "")), quote=True)
    shown = (
        f'<video class="{kind}" {shape} {source} title="{alt}" '
        "autoplay loop muted playsinline controls></video>"
    )
    if result.frames == 1:
        shown = f'<img class="{kind}" {shape} {source} alt="{alt}">'
    return f'<div class="stage">{shown}</div>'


def idle_status() -> str:
    """Nothing to say."""
    return '<p class="status"></p>'


def error_status(message: str) -> str:
    """What was wrong, in one line."""
    line = html.escape(" ".join(message.split()))
    return f'<p class="status error" role="alert">{line}</p>'


def cancelled_status() -> str:
    """It was cancelled."""
    return '<p class="status">Cancelled.</p>'


def progress_status(ticket: job_queue.Ticket) -> str:
    """How far a job is, and what was changed about it."""
    return _progress(ticket) + _notes(ticket.notes)


def _progress(ticket: job_queue.Ticket) -> str:
    if ticket.is_cancelled:
        return _bar("Cancelling: it stops at the next step", None)
    if ticket.state == "waiting" and not ticket.position:
        return _bar("Starting", None)
    if ticket.state == "waiting":
        before = "next in the queue" if ticket.position < 2 else "in the queue"
        jobs = f"{ticket.position} job{'s' * (ticket.position > 1)} before it"
        return _bar(f"Waiting, {before}: {jobs}", None)
    elapsed = f"{ticket.seconds:.0f} s"
    if not ticket.total:
        return _bar(
            f"Preparing; a new length or size is compiled first, {elapsed}", None
        )
    if ticket.done >= ticket.total:
        return _bar(f"Decoding, {elapsed}", 1.0)
    words = f"Step {ticket.done} of {ticket.total}, {elapsed}"
    if ticket.remaining is not None:
        words += f", about {ticket.remaining:.0f} s to go"
    return _bar(words, ticket.done / ticket.total)


def result_status(result: studio.Result) -> str:
    """What was made, what was changed about the request, and files to download."""
    width, height = result.size
    facts = [f"{width}x{height}"]
    if result.frames > 1:
        facts.append(f"{result.frames} frames, {result.frames / result.fps:.3g} s")
    facts.append(f"made in {result.seconds:.1f} s")
    links = [(result.video.suffix.lstrip("."), result.video), ("gif", result.gif)]
    links.append(("record", result.record))
    files = "".join(
        f'<a class="button" href="{url(path)}" download="{html.escape(path.name)}">'
        f"{name}</a>"
        for name, path in links
        if path is not None
    )
    return (
        f'<p class="status done" data-result="{result.record.parent.name}">'
        f"{' · '.join(facts)}</p>"
        f'<p class="files"><span>Download</span>{files}</p>'
        f"{_notes(result.notes)}"
    )


def record(metadata: Mapping[str, Any]) -> str:
    """How a result was made: what matters most, and all of it."""
    sampling = metadata.get("sampling", {})
    values = {label: metadata.get(key) for key, label in _SHOWN.items()}
    values["inputs"] = ", ".join(
        str(item.get("file", role)) for role, item in metadata.get("inputs", {}).items()
    )
    values["sampling"] = (
        f"{sampling.get('steps')} steps of {sampling.get('sampler', {}).get('kind')}, "
        f"guidance {sampling.get('guidance')}"
    )
    digest = metadata.get("checkpoint", {}).get("transformer")
    values["model"] = digest and digest[:12]
    rows = "".join(
        f"<dt>{label}</dt><dd>{html.escape(str(value))}</dd>"
        for label, value in values.items()
        if value not in (None, "")
    )
    text = html.escape(json.dumps(metadata, indent=2, ensure_ascii=False))
    return (
        f'<details class="record"><summary>How it was made</summary><dl>{rows}</dl>'
        f'<pre tabindex="0">{text}</pre></details>'
    )


def upload(path: pathlib.Path, seen: studio.Upload) -> str:
    """A clip or image that was chosen."""
    width, height = seen.size
    facts = f"{width}x{height}"
    if seen.frames > 1:
        seconds = seen.frames / seen.fps
        facts += f" · {seen.frames} frames · {seconds:.3g} s at {seen.fps:.4g} a second"
    source = f'src="{url(seen.thumbnail)}"'
    picture = f'<img {source} alt="">'
    if seen.thumbnail.suffix == ".mp4":
        picture = f"<video {source} autoplay loop muted playsinline></video>"
    return (
        f'<figure class="upload">{picture}<figcaption><b>{html.escape(path.name)}</b>'
        f"<span>{facts}</span></figcaption></figure>"
    )


def brush(seen: studio.Upload | None) -> str:
    """The first frame of a clip, to be painted over; a hint where there is no clip."""
    if seen is None:
        return '<p class="status">Choose a clip, then paint over what is to be new.</p>'
    width, height = seen.size
    times = max(1, -(-_SMALLEST_CANVAS // width))
    return (
        '<div class="brush">'
        f'<div class="paper" style="aspect-ratio: {width} / {height}; '
        f'width: min(100%, {_PAPER_HEIGHT * width / height:.2f}rem)">'
        f'<img src="{url(seen.first)}" alt="">'
        f'<canvas width="{width * times}" height="{height * times}" tabindex="0" '
        'role="img" aria-label="Mask: drag to paint; arrow keys move, space paints">'
        "</canvas></div><p class='tools'>"
        '<label>Brush <input type="range" min="2" max="50" value="14" '
        'aria-label="Brush size"></label>'
        '<button type="button" data-brush="erase" aria-pressed="false">Erase</button>'
        '<button type="button" data-brush="undo">Undo</button>'
        '<button type="button" data-brush="invert">Invert</button>'
        '<button type="button" data-brush="clear">Clear</button></p></div>'
    )


def _notes(notes: Sequence[str]) -> str:
    lines = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{lines}</ul>' if lines else ""


def _bar(words: str, share: float | None) -> str:
    """A line above a bar; one without end where it is not known how long."""
    bar = "<progress></progress>"
    if share is not None:
        bar = f'<progress value="{share:.3f}" max="1"></progress>'
    return f'<p class="status">{html.escape(words)}</p>{bar}'
