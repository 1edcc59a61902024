"""Where everything is on the page, in Gradio; `page` says what happens there."""

import dataclasses
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from soraflax import media
from soraflax.diffusion import samplers
from soraflax.serving import panels, requests, studio

ROLES = ("clip", "second", "image", "last")
_DROP = {
    "clip": "Clip: drop a video here",
    "second": "Second clip: drop a video here",
    "image": "First frame: drop an image here",
    "last": "Last frame, if there is one",
}
SECONDS = 2.0  # of a new video
SIZE_INFO = "Or type WIDTHxHEIGHT"
# Values of a request that components hold under the same name.
VALUES = (
    "task",
    "prompt",
    "size",
    "seconds",
    "direction",
    "path",
    "strength",
    "seed",
    "guidance",
    "steps",
    "sampler",
    "negative",
    "as_is",
)


@dataclasses.dataclass(frozen=True)
class Parts:
    """The components that events read and write.

    Attributes:
      files, views: where a file is dropped, and what it looks like, by role.
      clip_size: width and height of the clip; None where there is none.
      made: what 'Go on from this' goes on from.
      mask: a PNG, which the page's script fills in when a job is asked for.
    """

    task: Any
    summary: Any
    files: dict[str, Any]
    views: dict[str, Any]
    brush: Any
    prompt: Any
    make: Any
    cancel: Any
    notice: Any
    size: Any
    seconds: Any
    direction: Any
    path: Any
    strength: Any
    seed: Any
    dice: Any
    guidance: Any
    steps: Any
    sampler: Any
    negative: Any
    as_is: Any
    clip_size: Any
    made: Any
    mask: Any
    stage: Any
    status: Any
    onwards: Any
    record: Any

    @property
    def inputs(self) -> set[Any]:
        """What a job is made from."""
        values = {getattr(self, name) for name in VALUES}
        return values | set(self.files.values()) | {self.mask}


def lay_out(place: studio.Studio) -> Parts:
    """The components of the page; inside `gr.Blocks`."""
    gr.HTML(_head(place), elem_id="head")
    names = [(task.label, name) for name, task in requests.TASKS.items()]
    task = gr.Radio(
        names, value="generate", label="Task", show_label=False, elem_id="task"
    )
    # The style sheet sets them side by side, or one below the other in this order.
    with gr.Row(equal_height=False, elem_id="columns"):
        with gr.Column(elem_id="given"):
            given = _given()
        with gr.Column(elem_id="right"):
            made = _right()
        with gr.Column(elem_id="settings"):
            settings = _settings(place)
    # The script knows the mask as the last input: it is made last.
    mask = gr.Textbox("", visible=False)
    return Parts(task=task, **given, **settings, **made, mask=mask)


def _head(place: studio.Studio) -> str:
    model = place.model.generator.model
    fps, step = place.model.fps, "x".join(map(str, place.model.grid.patch_sides[::-1]))
    return (
        '<div class="bar"><h1>soraflax</h1>'
        f"<span>model {model.digest[:12]} · {fps:g} frames a second · sides of whole "
        f"{step} pixels</span></div>"
    )


def _given() -> dict[str, Any]:
    """What is given, and the buttons."""
    parts: dict[str, Any] = {"files": {}, "views": {}}
    parts["summary"] = gr.HTML(summary("generate"), elem_id="summary")
    for role in ROLES:
        parts["files"][role] = gr.File(
            label=_DROP[role],
            file_types=list(media.SUFFIXES),
            height=140,
            visible=False,
            elem_id=role,
        )
        parts["views"][role] = gr.HTML("", visible=False, elem_id=f"{role}-view")
    parts["brush"] = gr.HTML(panels.brush(None), visible=False, elem_id="brush")
    parts["prompt"] = gr.Textbox(
        label="Prompt",
        lines=2,
        max_lines=6,
        placeholder="a large red circle moves right",
        autofocus=True,
        elem_id="prompt",
    )
    with gr.Row():
        parts["make"] = gr.Button(
            "Generate", variant="primary", size="lg", scale=3, elem_id="make"
        )
        parts["cancel"] = gr.Button(
            "Cancel",
            variant="stop",
            size="lg",
            scale=1,
            min_width=90,
            interactive=False,
            elem_id="cancel",
        )
    parts["notice"] = gr.HTML(panels.idle_status(), elem_id="notice")
    return parts


def _settings(place: studio.Studio) -> dict[str, Any]:
    """What is asked for in numbers."""
    parts = _size_and_seconds(place)
    with gr.Row(elem_id="seed-row"):
        parts["seed"] = gr.Number(
            0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1, elem_id="seed"
        )
        parts["dice"] = gr.Button(
            "Another seed", size="md", scale=0, min_width=130, elem_id="dice"
        )
    parts["direction"] = gr.Radio(
        ["forward", "backward"],
        value="forward",
        label="Direction of time",
        visible=False,
        elem_id="direction",
    )
    parts["path"] = gr.Textbox(
        label="Paths (optional)",
        info="x0,y0:x1,y1 in pixels of the video: the body at x0,y0 goes to x1,y1; "
        "more points may follow, and more paths after a space",
        placeholder="32,32:48,20",
        visible=False,
        elem_id="path",
    )
    parts["strength"] = gr.Slider(
        0,
        1,
        value=0.7,
        step=0.05,
        label="Strength",
        visible=False,
        elem_id="strength",
        info="How much is made anew: 0 keeps all, 1 keeps nothing",
    )
    with gr.Accordion("More settings", open=False, elem_id="more"):
        return parts | _more_settings(place)


def _size_and_seconds(place: studio.Studio) -> dict[str, Any]:
    """How large and how long the result is."""
    limits, parts = place.settings.limits, {}
    choices = [(f"{w}x{h} {name}", f"{w}x{h}") for name, (w, h) in place.sizes()]
    with gr.Row():
        parts["size"] = gr.Dropdown(
            choices,
            value=choices[0][1],
            label="Size",
            info=SIZE_INFO,
            allow_custom_value=True,
            min_width=200,
            elem_id="size",
        )
        parts["seconds"] = gr.Slider(
            0,
            limits.seconds,
            value=SECONDS,
            step=0.25,
            label="Seconds",
            info="0: what suits the model",
            min_width=200,
            elem_id="seconds",
        )
    return parts


def _more_settings(place: studio.Studio) -> dict[str, Any]:
    """How it is sampled, and what becomes of clips."""
    limits, parts = place.settings.limits, {}
    usual = requests.usual(place.model.generator.model.config)
    parts["guidance"] = gr.Slider(
        1,
        12,
        value=usual.guidance,
        step=0.1,
        label="Guidance",
        elem_id="guidance",
        info="How closely the prompt is followed; 1 is no guidance",
    )
    parts["steps"] = gr.Slider(
        1,
        limits.steps,
        value=min(usual.steps, limits.steps),
        step=1,
        label="Steps",
        elem_id="steps",
    )
    parts["sampler"] = gr.Dropdown(
        list(samplers.SAMPLERS),
        value=usual.sampler,
        label="Sampler",
        elem_id="sampler",
    )
    parts["negative"] = gr.Textbox(
        label="Negative prompt",
        info="What guidance leads away from",
        elem_id="negative",
    )
    parts["as_is"] = gr.Checkbox(
        False,
        label="Clips as they are",
        info="Keep their size and every frame; otherwise they are brought to what "
        "suits the model",
        elem_id="as-is",
    )
    return parts


def _right() -> dict[str, Any]:
    """What is made."""
    return {
        "stage": gr.HTML(panels.empty_stage(), elem_id="stage"),
        "status": gr.HTML(panels.idle_status(), elem_id="status"),
        "onwards": gr.Button("Go on from this", visible=False, elem_id="onwards"),
        "record": gr.HTML("", elem_id="record"),
        "clip_size": gr.State(None),
        "made": gr.State(None),
    }


def summary(task: str) -> str:
    """What a task does, in a line."""
    return f"<p>{requests.TASKS[task].summary}</p>"
