"""Pictures of the page of `soraflax serve`, taken in a headless browser.

    python -m experiments.plots.page_pictures --checkpoint VIDEO --output docs/images

Generates a video, as a visitor would, and writes `page.png` (of a desktop) and
`page_phone.png`. Needs what `make test-page` installs, and Chromium.
"""

import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import soraflax
from soraflax.cli import parser as cli
from soraflax.serving import studio

PROMPT = "a large yellow triangle moves up on a white background"
DESKTOP: dict[str, Any] = {
    "viewport": {"width": 1240, "height": 880},
    "device_scale_factor": 1.5,
}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync")
PATIENCE = 600_000  # milliseconds for one video
MAX_COLOURS = 256  # of a picture, so that it is small


def main(argv: Sequence[str] | None = None) -> int:
    """Take the pictures; 0, or 2 after one line that says what was wrong."""
    parser = cli.Parser(
        prog="python -m experiments.plots.page_pictures", description=__doc__
    )
    parser.add_argument(
        "--checkpoint",
        type=pathlib.Path,
        metavar="DIR",
        help="a trained video model (default: the shipped one)",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("docs/images"),
        metavar="DIR",
        help="where the pictures go",
    )
    args = parser.parse_args(argv)
    return cli.run_command(
        "page_pictures", lambda: take(args.checkpoint, args.output), extra="ui"
    )


def take(checkpoint: pathlib.Path | None, output: pathlib.Path) -> None:
    """Serve a model, and write both pictures.

    Raises:
      FileNotFoundError: no model, or no Chromium.
      ImportError: no Gradio, or no playwright.
    """
    from playwright import sync_api  # pyright: ignore[reportMissingImports]

    from soraflax.serving import page as pages

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise FileNotFoundError("no Chromium: apt-get install chromium")
    model = soraflax.load(checkpoint)
    output.mkdir(parents=True, exist_ok=True)
    with (
        studio.Studio(model) as place,
        pages.opened(place, port=0) as url,
        sync_api.sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for name, how in {"page": DESKTOP, "page_phone": PHONE}.items():
            tab = browser.new_page(**how)
            tab.goto(url)
            visit(tab)
            path = output / f"{name}.png"
            tab.screenshot(path=path)
            _shrink(path)
            print(path)
        browser.close()


def visit(tab: Any) -> None:
    """Generate a video."""
    tab.wait_for_selector("#make")
    _generate(tab, PROMPT)
    tab.wait_for_timeout(1000)
    tab.evaluate("document.activeElement.blur()")
    tab.evaluate("window.scrollTo(0, 0)")
    tab.mouse.move(0, 0)
    # Its controls fade some seconds after the last movement.
    tab.wait_for_timeout(4000)


def _generate(tab: Any, prompt: str) -> None:
    tab.fill("#prompt textarea", prompt)
    result = "document.querySelector('#status .done')?.dataset.result"
    before = tab.evaluate(result)
    tab.click("#make")
    tab.wait_for_function(
        f"before => {result} && {result} !== before", arg=before, timeout=PATIENCE
    )
    tab.wait_for_function(
        "document.querySelector('#stage video')?.currentTime > 0", timeout=PATIENCE
    )


def _shrink(path: pathlib.Path) -> None:
    """Fewer colours."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(MAX_COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
