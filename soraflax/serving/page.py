"""The page of a studio, served: what happens when a visitor does something.

    with studio.Studio(model) as place, page.opened(place, host="127.0.0.1") as url: ...

A job that runs belongs to a tab of a browser: one tab has one at a time, and closing it
cancels. Everything that the page needs comes from its own server.
"""

import asyncio
import contextlib
import os
import pathlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from gradio import themes  # pyright: ignore[reportMissingImports]

from soraflax.serving import job_queue, layout, panels, requests, studio

PORT = 7860
_STATIC = pathlib.Path(__file__).parent / "static"
_POLL = 0.25  # seconds between two looks at a job
_SYSTEM = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "monospace")
# Gradio puts the rules of a style sheet inside its container: these are about it.
_STYLE = """<style>
.gradio-container { overflow: visible !important; }
.gradio-container .fillable { max-width: 1240px !important; }
@media (max-width: 899px) {
  .gradio-container .fillable { padding: 0.8rem !important; }
}
</style>"""
Updates = dict[Any, Any]


@contextlib.contextmanager
def opened(
    place: studio.Studio, *, host: str = "127.0.0.1", port: int = PORT
) -> Iterator[str]:
    """Serves the page of a studio for as long as the block lasts; its address.

    Args:
      place: the studio; its uploads lie in its folder.
      host: address to listen on; only loopback is safe without more.
      port: to listen on; 0 for any that is free.

    Raises:
      OSError: the address or the port cannot be had.
    """
    port = _free_port(host, port)
    uploads = place.folder / "uploads"
    uploads.mkdir()
    with _environment(GRADIO_TEMP_DIR=str(uploads)):
        page = build(place)
        page.queue(default_concurrency_limit=4)
        try:
            page.launch(
                server_name=host,
                server_port=port,
                share=False,
                inbrowser=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                mcp_server=False,
                footer_links=[],
                allowed_paths=[str(place.folder)],
                max_file_size=place.settings.limits.upload_bytes,
                favicon_path=_STATIC / "icon.svg",
                theme=_theme(),
                css_paths=[_STATIC / "page.css"],
                head=_STYLE + f"<script>{(_STATIC / 'page.js').read_text()}</script>",
            )
            shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
            yield f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
        finally:
            page.close(verbose=False)


def build(place: studio.Studio) -> gr.Blocks:
    """The page of a studio, not served yet."""
    with gr.Blocks(
        title="soraflax", analytics_enabled=False, delete_cache=(3600, 86400)
    ) as page:
        parts = layout.lay_out(place)
        _connect(page, parts, handlers=Handlers(place, parts))
    return page


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables of the environment for as long as a block lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


def _theme() -> themes.Base:
    """Fonts of the visitor's own system: none is fetched."""
    return themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=_SYSTEM,
        font_mono=_MONO,
    )


def _free_port(host: str, port: int) -> int:
    """The port, or one that is free for 0.

    Raises:
      OSError: no such address here, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, port))
        except OSError as error:
            words = (error.strerror or str(error)).lower()
            raise OSError(f"{host} port {port}: {words}: choose another") from None
        return found.getsockname()[1]


def _connect(page: gr.Blocks, parts: layout.Parts, *, handlers: "Handlers") -> None:
    """What calls which handler."""
    quick: Any = {"show_progress": "hidden", "api_visibility": "private"}
    gathered: Any = {
        "inputs": parts.inputs,
        "outputs": handlers.shown,
        "js": "(...inputs) => window.soraflaxInputs(...inputs)",
        "concurrency_limit": None,
    }
    for event in (parts.make.click, parts.prompt.submit):
        event(handlers.make, **gathered, **quick)
    parts.cancel.click(handlers.cancel, outputs=[parts.status], queue=False, **quick)
    parts.task.change(
        handlers.choose_task,
        inputs=[parts.task, parts.clip_size],
        outputs=handlers.form,
        queue=False,
        **quick,
    )
    for role, file in parts.files.items():
        outputs = [file, parts.views[role], parts.notice]
        if role == "clip":
            outputs += [parts.brush, parts.clip_size, parts.size]
        for event in (file.upload, file.clear):
            event(
                handlers.receive(role),
                inputs=[file, parts.task],
                outputs=outputs,
                **quick,
            )
    parts.onwards.click(
        handlers.go_on,
        inputs=[parts.made, parts.task],
        outputs=handlers.onward,
        **quick,
    )
    parts.dice.click(
        None,
        outputs=[parts.seed],
        js="() => Math.floor(Math.random() * 4294967296)",
        **quick,
    )
    page.unload(handlers.leave)


class Handlers:
    """What happens when a visitor does something.

    Attributes:
      place: the studio.
      parts: components of the page.
      shown, form, onward: those that `make`, `choose_task` and `go_on` may change.
    """

    def __init__(self, place: studio.Studio, parts: layout.Parts) -> None:
        self.place, self.parts = place, parts
        self.shown = [parts.stage, parts.status, parts.notice, parts.make, parts.cancel]
        self.shown += [parts.onwards, parts.record, parts.made]
        self.form = [parts.notice, parts.summary, parts.brush, parts.prompt, parts.size]
        self.form += [parts.seconds, parts.direction, parts.path]
        self.form += [parts.strength]
        self.form += [*parts.files.values(), *parts.views.values()]
        self.onward = [parts.task, parts.notice, parts.brush, parts.clip_size]
        self.onward += [*parts.files.values(), *parts.views.values()]
        self._tickets: dict[str, job_queue.Ticket | None] = {}

    async def make(
        self, values: dict[Any, Any], request: gr.Request
    ) -> AsyncIterator[Updates]:
        """Make what is asked for, and show how far it is."""
        tab, parts = str(request.session_hash), self.parts
        if tab in self._tickets:
            yield {parts.notice: panels.error_status("cancel what is made first")}
            return
        self._tickets[tab] = None
        yield self._buttons(busy=True) | {parts.notice: panels.idle_status()}
        try:
            asked = _request(values, parts)
            ticket = await asyncio.to_thread(self.place.submit, asked)
        except Exception as error:
            del self._tickets[tab]
            message = panels.error_status(job_queue.explain(error))
            yield self._buttons(busy=False) | {parts.notice: message}
            return
        self._tickets[tab] = ticket
        try:
            async for update in self._follow(ticket, asked):
                yield update
        finally:
            # A visitor who leaves in between cancels.
            self._tickets.pop(tab, None)
            self.place.queue.cancel(ticket)
        yield self._buttons(busy=False) | self._outcome(ticket)

    async def _follow(
        self, ticket: job_queue.Ticket, asked: requests.Request
    ) -> AsyncIterator[Updates]:
        """What changes until a job is over."""
        parts, number, size = self.parts, -1, asked.size
        while not ticket.is_over:
            preview = ticket.preview
            update: Updates = {parts.status: panels.progress_status(ticket)}
            if number != (preview.number if preview else 0):
                number = preview.number if preview else 0
                update[parts.stage] = panels.preview_stage(preview, size)
            yield update
            await asyncio.sleep(_POLL)

    def _buttons(self, *, busy: bool) -> Updates:
        return {
            self.parts.make: gr.update(interactive=not busy),
            self.parts.cancel: gr.update(interactive=busy),
        }

    def _outcome(self, ticket: job_queue.Ticket) -> Updates:
        """What is shown of a job that is over."""
        parts = self.parts
        if ticket.state == "cancelled":
            return {
                parts.stage: panels.empty_stage(),
                parts.status: panels.cancelled_status(),
            }
        if ticket.state == "failed":
            return {
                parts.stage: panels.empty_stage(),
                parts.status: panels.error_status(ticket.error),
            }
        result: studio.Result = ticket.result
        return {
            parts.stage: panels.result_stage(result),
            parts.status: panels.result_status(result),
            parts.record: panels.record(result.metadata),
            parts.onwards: gr.update(visible=True),
            parts.made: (str(result.lossless), result.frames),
        }

    def cancel(self, request: gr.Request) -> str:
        """Stop what is made for this tab, at its next step."""
        ticket = self._tickets.get(str(request.session_hash))
        if ticket is None:
            return panels.idle_status()
        self.place.queue.cancel(ticket)
        return panels.progress_status(ticket)

    def leave(self, request: gr.Request) -> None:
        """The tab was closed."""
        ticket = self._tickets.get(str(request.session_hash))
        if ticket is not None:
            self.place.queue.cancel(ticket)

    def choose_task(self, name: str, clip: tuple[int, int] | None) -> Updates:
        """Show what a task is given, and nothing else."""
        task, parts = requests.TASKS[name], self.parts
        width, height = self.place.suggested_size(name, clip)
        length = "Seconds" if task.seconds == "video" else "Seconds to add"
        about = "Clips are brought to about this; or type WIDTHxHEIGHT"
        updates: Updates = {
            parts.notice: panels.idle_status(),
            parts.summary: layout.summary(name),
            parts.brush: gr.update(visible="mask" in task.files),
            parts.prompt: gr.update(
                label="Prompt" if task.prompt else "Prompt (optional)"
            ),
            parts.size: gr.update(
                value=f"{width}x{height}",
                info=layout.SIZE_INFO if task.size else about,
            ),
            parts.seconds: gr.update(
                visible=bool(task.seconds),
                label=length,
                value=layout.SECONDS if task.seconds == "video" else 0,
            ),
            parts.direction: gr.update(visible=task.direction),
            parts.path: gr.update(visible=task.path),
            parts.strength: gr.update(
                visible=task.strength is not None, value=task.strength or 0
            ),
        }
        for role in layout.ROLES:
            visible = gr.update(visible=role in task.files)
            updates |= {parts.files[role]: visible, parts.views[role]: visible}
        return updates

    def receive(self, role: str) -> Any:
        """The handler of a file that was chosen for a role, or taken away."""

        def received(path: str | None, task: str) -> Updates:
            if path is None:
                return self._no_file(role)
            try:
                seen = self._seen(role, pathlib.Path(path))
            except Exception as error:
                message = panels.error_status(job_queue.explain(error))
                return self._no_file(role) | {
                    self.parts.files[role]: None,
                    self.parts.notice: message,
                }
            if role == "clip":
                width, height = self.place.suggested_size(task, seen[1])
                seen[0][self.parts.size] = f"{width}x{height}"
            return seen[0] | {self.parts.notice: panels.idle_status()}

        return received

    def _seen(self, role: str, path: pathlib.Path) -> tuple[Updates, tuple[int, int]]:
        """What a file looks like, and its width and height; errors as `inspect`."""
        parts = self.parts
        seen = self.place.inspect(path, name=requests.NAMES[role])
        updates: Updates = {parts.views[role]: panels.upload(path, seen)}
        if role == "clip":
            updates[parts.brush] = panels.brush(seen)
            updates[parts.clip_size] = seen.size
        return updates, seen.size

    def _no_file(self, role: str) -> Updates:
        parts = self.parts
        updates: Updates = {parts.views[role]: ""}
        if role == "clip":
            updates |= {parts.brush: panels.brush(None), parts.clip_size: None}
        return updates

    def go_on(self, made: tuple[str, int] | None, task: str) -> Updates:
        """Give what was made to a task: a clip to one of clips, an image to animate."""
        parts = self.parts
        if made is None:
            return {parts.notice: panels.idle_status()}
        path, frames = pathlib.Path(made[0]), made[1]
        role = "clip" if frames > 1 else "image"
        fallback = "extend" if frames > 1 else "animate"
        try:
            updates, _ = self._seen(role, path)
        except Exception as error:
            return {parts.notice: panels.error_status(job_queue.explain(error))}
        chosen = task if role in requests.TASKS[task].files else fallback
        return updates | {parts.files[role]: str(path), parts.task: chosen}


def _request(values: dict[Any, Any], parts: layout.Parts) -> requests.Request:
    """What the components of the page ask for.

    Raises:
      ValueError: a size that is none.
    """
    given = {name: values[getattr(parts, name)] for name in layout.VALUES}
    files = {role: values[file] for role, file in parts.files.items()}
    given |= {name: given[name] or "" for name in ("prompt", "negative", "path")}
    given["size"] = requests.parse_size(str(given["size"]))
    given["seconds"] = given["seconds"] or None
    given["seed"] = int(given["seed"] or 0)
    return requests.Request(
        **given,
        files={role: pathlib.Path(path) for role, path in files.items() if path},
        mask=values[parts.mask] or "",
    )
