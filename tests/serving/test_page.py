"""The page in a browser: what a visitor clicks, types, drops, paints and hears of it.

Headless Chromium at `soraflax serve` with an untrained model. `make test-page` installs
what this needs; without it these tests are skipped, and say what is missing.
"""

import importlib.util
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest

from soraflax import media
from soraflax.serving import requests
from tests.generation import tiny

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
MISSING = [
    name
    for name, found in {
        "gradio (pip install 'soraflax[ui]')": importlib.util.find_spec("gradio"),
        "playwright": importlib.util.find_spec("playwright"),
        "chromium": CHROMIUM,
    }.items()
    if not found
]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"a browser test needs {', '.join(MISSING)}: make test-page"
)
SHORT, LONG = 20_000, 240_000  # milliseconds: of the page, of a job that compiles
MOVES = """() => {
  const video = document.querySelector("#stage video");
  return video && !video.paused && video.currentTime > 0 && video.videoWidth > 0;
}"""
PAINTED = """() => {
  const canvas = document.querySelector(".brush canvas");
  const whole = [0, 0, canvas.width, canvas.height];
  const { data } = canvas.getContext("2d").getImageData(...whole);
  return data.some((value) => value > 0);
}"""
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Address of a server, which the command starts and a signal stops."""
    checkpoint = tiny.save(tmp_path_factory.mktemp("model"))
    limits = "--queue 1 --max-upload 1 --max-seconds 10 --max-steps 2000"
    words = f"serve --checkpoint {checkpoint} --size 32x16 --port 0 {limits}".split()
    server = subprocess.Popen(
        [sys.executable, "-m", "soraflax.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    assert server.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(
        target=lambda: [lines.put(line) for line in server.stdout or ()], daemon=True
    )
    reader.start()
    said = lines.get(timeout=LONG / 1000)
    assert said.startswith("http://127.0.0.1:"), said
    yield said.split()[0]
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 130
    reader.join(10)
    server.stdout.close()
    said = "".join(iter(lambda: lines.get_nowait() if lines.qsize() else "", ""))
    assert "the page is closed" in said and "Traceback" not in said


@pytest.fixture(scope="module")
def browser():
    from playwright import sync_api  # pyright: ignore[reportMissingImports]

    with sync_api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def tab(browser, url):
    """Opens a tab, which must not ask others for anything; a mistake in it fails."""
    opened, strangers = [], []

    def new(**how):
        context = browser.new_context(**how)
        page = context.new_page()
        page.set_default_timeout(SHORT)
        page.on("pageerror", lambda error: strangers.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((url, "data:", "blob:"))
                else strangers.append(request.url)
            ),
        )
        opened.append(context)
        page.goto(url)
        page.wait_for_selector("#make")
        return page

    yield new
    for context in opened:
        context.close()
    assert strangers == []


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for name, frames in {"clip.mp4": 9, "second.gif": 9, "image.png": 1}.items():
        pixels = rng.integers(0, 256, (frames, 16, 32, 3)).astype(np.uint8)
        media.write_video(folder / name, pixels, fps=8.0)
    return folder


def choose(page, task, *, steps=2):
    page.click(f"#task label:has-text('{requests.TASKS[task].label}')")
    summary = requests.TASKS[task].summary
    page.wait_for_selector(f"#summary:has-text('{summary}')")
    if not page.is_visible("#steps"):
        page.click("#more button")
    page.fill("#steps input[type=number]", str(steps))
    page.keyboard.press("Tab")


def drop(page, role, path):
    page.set_input_files(f"#{role} input[type=file]", path)
    page.wait_for_selector(f"#{role}-view figure")


def paint(page):
    box = page.locator(".brush canvas").bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.up()


def wait(page, selector, *, state="visible"):
    return page.wait_for_selector(selector, timeout=LONG, state=state)


def make(page, press="click"):
    """Have it made; what the status says then."""
    result = "document.querySelector('#status .done')?.dataset.result"
    before = page.evaluate(result)
    page.evaluate("document.querySelector('#notice .error')?.classList.add('old')")
    getattr(page, press)("#make")
    page.wait_for_function(
        f"before => document.querySelector('.error[role=alert]:not(.old)') || "
        f"({result} && {result} !== before)",
        arg=before,
        timeout=LONG,
    )
    return page.locator(".status.done, .error[role=alert]").first.inner_text()


def notice(page):
    return page.wait_for_selector("#notice .error").inner_text()


def begin_long(page):
    choose(page, "generate", steps=2000)
    page.fill("#prompt textarea", "a circle")
    page.fill("#seconds input[type=number]", "10")
    page.keyboard.press("Tab")
    page.click("#make")


def test_a_click_makes_a_playing_video_with_its_record(tab, url, tmp_path):
    page = tab()
    choose(page, "generate", steps=25)
    page.fill("#prompt textarea", "a large red circle")
    page.fill("#seed input", "7")
    page.click("#make")
    wait(page, "#stage img[data-preview]")
    wait(page, "#stage video")
    page.wait_for_function(MOVES)
    assert "32x16 · 17 frames" in page.inner_text("#status")
    for suffix in ("mp4", "gif"):
        link = page.locator(f"#status a:has-text('{suffix}')")
        with page.expect_download() as download:
            link.click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        assert path.name == f"generate-seed7.{suffix}"
        record = media.read_metadata(path)
        assert (record["prompt"], record["seed"]) == ("a large red circle", 7)
        assert media.probe(path).frames == 17
    page.click("#record summary")
    shown = page.inner_text("#record")
    assert "a large red circle" in shown and "25 steps of Euler" in shown


@pytest.mark.parametrize("task", requests.TASKS)
def test_each_task(tab, files, task):
    page, about = tab(), requests.TASKS[task]
    choose(page, task)
    for role in ("clip", "second", "image", "last"):
        assert page.is_visible(f"#{role}") == (role in about.files)
    assert page.is_visible("#path") == about.path
    if "clip" in about.files:
        drop(page, "clip", files / "clip.mp4")
    if "second" in about.files:
        drop(page, "second", files / "second.gif")
    if "image" in about.files:
        drop(page, "image", files / "image.png")
    if "mask" in about.files:
        wait(page, ".brush canvas")
        paint(page)
    page.fill("#prompt textarea", "a circle")
    assert "made in" in make(page)
    if task == "image":
        assert page.evaluate("document.querySelector('#stage img').naturalWidth") == 32
    else:
        page.wait_for_function(MOVES)


def test_what_was_made_is_gone_on_from(tab):
    page = tab()
    choose(page, "generate")
    page.fill("#prompt textarea", "a circle")
    assert "made in" in make(page)
    page.click("#onwards")
    page.wait_for_selector("#clip-view figure:has-text('generate-seed0.mkv')")
    page.wait_for_selector(f"#summary:has-text('{requests.TASKS['extend'].summary}')")
    assert "made in" in make(page)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("clip.mp4", b"no video" * 99, "clip: clip.mp4: not a video or image"),
        ("notes.txt", b"text", "Invalid file type: notes.txt"),
        ("large.mp4", bytes(2**20 + 1), "maximum allowed size"),
    ],
)
def test_a_wrong_upload_shows_one_line(tab, tmp_path, name, content, says):
    page = tab()
    choose(page, "edit")
    (tmp_path / name).write_bytes(content)
    page.set_input_files("#clip input[type=file]", tmp_path / name)
    line = page.wait_for_selector(
        "#notice .error, [data-testid=toast-text]"
    ).inner_text()
    assert says in line and "\n" not in line and "Traceback" not in page.content()
    assert not page.query_selector("#clip-view figure")
    if name == "clip.mp4":
        assert str(tmp_path) not in line and "/tmp" not in line


def test_what_is_missing_or_cannot_be_made_is_one_line(tab):
    page = tab()
    page.click("#make")
    assert notice(page) == "prompt: say what the video shows"
    page.fill("#prompt textarea", "a circle")
    page.fill("#size input", "33x16")
    page.keyboard.press("Enter")
    page.click("#make")
    page.wait_for_selector("#notice :text('33 pixels wide: use 32 or 48')")
    choose(page, "loop")
    page.click("#make")
    page.wait_for_selector("#notice :text('clip: drop a file, or choose one')")


def test_keys_alone_make_and_cancel(tab):
    page = tab()
    choose(page, "generate", steps=2000)
    page.fill("#seconds input[type=number]", "10")
    page.focus("#prompt textarea")
    page.keyboard.type("a circle")
    page.keyboard.press("Control+Enter")
    wait(page, "#stage img[data-preview]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#status :text('Cancelled.')")
    page.focus("#task input[value=generate]")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f"#summary:has-text('{requests.TASKS['image'].summary}')")


def test_a_mask_is_painted_with_keys(tab, files):
    page = tab()
    choose(page, "inpaint")
    drop(page, "clip", files / "clip.mp4")
    page.focus(".brush canvas")
    for key in ("ArrowLeft", "ArrowUp", "Space"):
        page.keyboard.press(key)
    assert page.evaluate(PAINTED)
    page.click("[data-brush=undo]")
    assert not page.evaluate(PAINTED)
    page.click("#make")
    assert notice(page).startswith("mask: paint over")
    page.locator(".brush input").fill("50")
    page.focus(".brush canvas")
    page.keyboard.press("Space")
    page.click("[data-brush=invert]")
    assert "made in" in make(page)


def test_one_job_runs_others_wait_and_the_queue_is_bounded(tab):
    first, second, third = tab(), tab(), tab()
    begin_long(first)
    wait(first, "#stage img[data-preview]")
    begin_long(second)
    second.wait_for_selector("#status :text('1 job before it')")
    choose(third, "generate")
    third.fill("#prompt textarea", "a circle")
    third.click("#make")
    assert notice(third) == "the queue is full, 1 waits: try again when a job is done"
    # A tab that is closed gives up its place.
    first.close()
    wait(second, "#stage img[data-preview]")
    second.click("#cancel")
    second.wait_for_selector("#status :text('Cancelled.')")


def test_a_phone_shows_it_all_in_one_column(tab, files):
    page = tab(**PHONE)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["viewport"]["width"]
    for selector in ("#prompt", "#make", "#stage", "#size", "#seed"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, selector
    choose(page, "generate")
    page.fill("#prompt textarea", "a circle")
    assert "made in" in make(page, "tap")
    top = page.locator("#stage").bounding_box()["y"]
    assert -50 < top < PHONE["viewport"]["height"] / 2
    choose(page, "inpaint")
    drop(page, "clip", files / "clip.mp4")
    page.locator(".brush canvas").scroll_into_view_if_needed()
    page.tap(".brush canvas")
    assert page.evaluate(PAINTED)


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "~/.ssh/id_rsa"])
def test_no_other_file_of_the_machine_is_served(url, path):
    name = urllib.parse.quote(path, safe="")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{url}/gradio_api/file={name}")
    error.value.close()
    assert error.value.code in (403, 404)


def test_the_server_itself_refuses_a_large_upload(url):
    body = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.mp4\r\n\r\n"
    body += bytes(2**20 + 1) + b"\r\n--x--\r\n"
    request = urllib.request.Request(
        f"{url}/gradio_api/upload",
        body,
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    error.value.close()
    assert error.value.code == 413
