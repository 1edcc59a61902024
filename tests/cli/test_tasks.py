"""Commands that work from clips and images: what they keep, refuse and write down."""

import json
import pathlib
import shlex

import numpy as np
import pytest

from soraflax import media
from soraflax.cli import connect, sampling
from soraflax.cli import parser as cli
from soraflax.generation import tasks
from tests.cli import conftest
from tests.media import samples

LEFT = np.s_[:, :, :16]  # what mask.png and mask.mkv leave as it is

COMMANDS = (
    "generate",
    "image",
    "animate",
    "extend",
    "loop",
    "connect",
    "edit",
    "inpaint",
    "outpaint",
    "upscale",
)


@pytest.fixture
def files(clip):
    """What the commands below are given; their pixels, by name."""
    found = {
        "c.mkv": clip("c.mkv"),
        "d.mkv": clip("d.mkv", 13, seed=1),
        "ten.mkv": clip("ten.mkv", 10, seed=2),
        "i.png": clip("i.png", 1, seed=3),
        "j.png": clip("j.png", 1, seed=4),
    }
    mask = np.zeros((9, 16, 32, 3), np.uint8)
    mask[:, :, 16:] = 255
    media.write_video("mask.png", mask[:1], fps=8.0)
    mask[:5] = 0
    media.write_video("mask.mkv", mask, fps=8.0)
    return found


def read(path):
    return media.read_video(path).frames


def record(path):
    return json.loads(pathlib.Path(f"{path}.json").read_text())


ALL = np.s_[:]
# A command, the frames and height and width that it makes, and what stays: places in
# the result, the file whose pixels they have, and where in it.
TASKS = {
    "animate": ("animate i.png --frames 9", (9, 16, 32), [(np.s_[:1], "i.png", ALL)]),
    "animate to the last": (
        "animate i.png 'moves' --last-frame j.png --seconds 1.1",
        (9, 16, 32),
        [(np.s_[:1], "i.png", ALL), (np.s_[-1:], "j.png", ALL)],
    ),
    "extend": ("extend c.mkv moves", (17, 16, 32), [(np.s_[:9], "c.mkv", ALL)]),
    "extend far": (
        "extend ten.mkv --seconds 3.1 --context 5",
        (34, 16, 32),
        [(np.s_[:10], "ten.mkv", ALL)],
    ),
    "extend backward": (
        "extend c.mkv --direction backward",
        (14, 16, 32),
        [(np.s_[-9:], "c.mkv", ALL)],
    ),
    "extend far backward": (
        "extend ten.mkv moves --direction backward --seconds 1.8",
        (25, 16, 32),
        [(np.s_[-10:], "ten.mkv", ALL)],
    ),
    "loop": ("loop c.mkv --frames 8", (17, 16, 32), [(np.s_[:9], "c.mkv", ALL)]),
    "connect": (
        "connect c.mkv d.mkv 'a' --frames 8",
        (30, 16, 32),
        [(np.s_[:9], "c.mkv", ALL), (np.s_[-13:], "d.mkv", ALL)],
    ),
    "edit": ("edit ten.mkv 'blue' --strength 0.4", (10, 16, 32), []),
    "inpaint": (
        "inpaint c.mkv --mask mask.png",
        (9, 16, 32),
        [(LEFT, "c.mkv", LEFT)],
    ),
    "inpaint in time": (
        "inpaint c.mkv red --mask mask.mkv",
        (9, 16, 32),
        [(LEFT, "c.mkv", LEFT), (np.s_[:5], "c.mkv", np.s_[:5])],
    ),
    "outpaint": (
        "outpaint c.mkv --size 32x48",
        (9, 48, 32),
        [(np.s_[:, 16:32], "c.mkv", ALL)],
    ),
    "upscale": ("upscale c.mkv --size 96x32 --tile 64x32", (9, 32, 96), []),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_keeps_what_it_is_given_and_can_be_repeated(run, files, name):
    line, shape, kept = TASKS[name]
    status, paths, told = run(f"{line} --seed 3 --out out.mkv")
    assert (status, paths) == (0, ["out.mkv"])
    is_inexact = "--seconds" in line  # of seconds that no number of frames lasts
    assert len(told) == (name == "upscale") + is_inexact  # stretched
    assert is_inexact == any("are the nearest that can be made" in t for t in told)
    video = read("out.mkv")
    assert video.shape == (*shape, 3)
    for place, file, there in kept:
        np.testing.assert_array_equal(video[place], files[file][there])
    found = record("out.mkv")
    assert media.read_metadata("out.mkv") == found
    assert (found["task"], found["seed"], found["fps"]) == (name.split()[0], 3, 8.0)
    assert (found["frames"], found["size"]) == (shape[0], [shape[2], shape[1]])
    assert {one["file"] for one in found["inputs"].values()} == {
        word for word in shlex.split(line) if word in files or "mask." in word
    }
    command, *words = shlex.split(found["command"])[1:]
    assert run([command, "--out", "again.mkv", *words])[0] == 0
    np.testing.assert_array_equal(read("again.mkv"), video)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_an_extension_can_be_extended(run, files, direction):
    extend = ["extend", "--direction", direction]
    run([*extend, "c.mkv", "--out", "once.mkv"])
    run([*extend, "once.mkv", "--out", "twice.mkv"])
    once, twice = read("once.mkv"), read("twice.mkv")
    assert len(files["c.mkv"]) < len(once) < len(twice)
    for longer, part in ((once, files["c.mkv"]), (twice, once)):
        same = longer[: len(part)] if direction == "forward" else longer[-len(part) :]
        np.testing.assert_array_equal(same, part)


def test_strength_is_how_much_changes(run, files):
    """Of the way to what is made from nothing."""
    made = {}
    for strength in ("0", "0.2", "1"):
        run(f"edit c.mkv blue --steps 5 --strength {strength} --out out.mkv")
        made[strength] = read("out.mkv").astype(int)
        assert record("out.mkv")["options"] == {"strength": float(strength)}
    away = [np.abs(made[s] - made["0"]).mean() for s in ("0.2", "1")]
    assert 0 < away[0] < away[1]


def test_several_results_of_a_clip(run, files):
    line = "extend c.mkv --direction backward --frames 6 --num-videos 2 --out out.mkv"
    status, paths, _ = run(line)
    assert (status, paths) == (0, ["out-0.mkv", "out-1.mkv"])
    first, second = map(read, paths)
    np.testing.assert_array_equal(first[-9:], second[-9:])
    assert (first[:6] != second[:6]).any()


def test_a_prompt_can_stand_anywhere(run, files):
    for number, words in enumerate(
        (
            ["c.mkv", "a -dash", "--frames", "4"],
            ["c.mkv", "--frames", "4", "a -dash"],
            ["--frames", "4", "--", "c.mkv", "a -dash"],
            ["c.mkv", "--frames", "4", "--", "a -dash"],
        )
    ):
        status, _, told = run(["extend", "--out", f"{number}.mkv", *words])
        assert (status, told) == (0, [])
        assert record(f"{number}.mkv")["prompt"] == "a -dash"
    status, _, told = run("extend c.mkv --frames 4 -dash")
    assert status == 2 and "unrecognized arguments: -dash" in told[0]
    status, _, told = run("extend c.mkv one --frames 4 two")
    assert status == 2 and "unrecognized arguments: two" in told[0]


@pytest.fixture
def awkward(files, clip, place):
    """What the commands below had better not be given."""
    for count in (1, 2, 3):
        clip(f"{count}.mkv", count)
    clip("odd.mkv", width=40, height=20)
    clip("fast.mkv", fps=24.0)
    clip("big.mkv", width=48, height=32)
    clip("big.png", 1, width=48, height=32)
    media.write_video("black.png", np.zeros((1, 16, 32, 3), np.uint8), fps=8.0)
    whole = (place / "c.mkv").read_bytes()
    (place / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (place / "bad.mp4").write_bytes(b"\0\1junk" * 99)
    (place / "empty.mp4").write_bytes(b"")
    clip("out.mp4.preview.gif", 9)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("animate i.png --frames 1", "1 frames: use 5 or more to move"),
        ("animate i.png --frames 7", "7 frames: use 5 or 9"),
        ("animate i.png --seconds 1e6", "use at most 8192 seconds"),
        ("animate i.png --size 33x16", "33 pixels wide: use 32 or 48"),
        ("animate i.png --size 16000x16000", "16000 pixels high: use 8192 or less"),
        ("animate c.mkv", "c.mkv: a video of 9 frames: an image is needed here"),
        ("animate gone.png", "gone.png: no such file"),
        ("animate i.png --last-frame bad.mp4", "bad.mp4: not a video or image"),
        ("animate", "required: image"),
        ("extend c.mkv --frames 3", "3 new frames: use 4"),
        ("extend c.mkv --frames 7", "7 new frames: use 4 or 8"),
        ("extend c.mkv --seconds 1e6", "use at most 8192 seconds"),
        ("extend c.mkv --frames 99999999999", "use 65536 or less"),
        ("extend c.mkv --direction backward --frames 8", "8 new frames: use 6 or 10"),
        ("extend c.mkv --direction backward --frames 99999999999", "use 65535 or less"),
        ("extend c.mkv --direction backward --seconds 1e308", "at most 8192 seconds"),
        ("extend c.mkv --direction sideways", "invalid choice: 'sideways'"),
        ("extend c.mkv --context 99", "a context of 99: use 9 or less"),
        ("extend c.mkv --context 0", "0 is too small: use 1 or more"),
        ("extend c.mkv --direction backward --context 3", "use 4 or more"),
        ("extend c.mkv --direction backward --context 99", "use 8 or less"),
        ("extend 3.mkv --direction backward", "3.mkv: 3 frames: give 4 or more"),
        ("extend i.png --direction backward", "i.png: 1 frame: give 4 or more"),
        ("extend odd.mkv", "odd.mkv: 40x20 pixels: use 32x16, or say --fit resize"),
        ("extend bad.mp4", "bad.mp4: not a video or image"),
        ("extend empty.mp4", "empty.mp4: "),
        ("extend cut.mkv", "cut.mkv: "),
        ("extend gone.mkv", "gone.mkv: no such file"),
        ("extend .", ".: is a directory"),
        ("extend c.mkv --out c.mkv", "would replace the input c.mkv"),
        ("extend out.mp4.preview.gif --preview", "would replace the input out.mp4.pre"),
        ("extend fast.mkv --out a.png", "a png holds one frame, not 17"),
        ("loop c.mkv --frames 3", "3 new frames: use 4"),
        ("loop c.mkv --frames 99999999999", "use 65536 or less"),
        ("loop c.mkv --seconds 1e6", "use at most 8192 seconds"),
        ("loop 1.mkv", "1.mkv: 1 frame: give 4 or more"),
        ("loop 2.mkv", "2.mkv: 2 frames: give 4 or more"),
        ("loop c.mkv --context 1", "a context of 1 frames: use 4 or more"),
        ("connect c.mkv", "required: second"),
        ("connect c.mkv 3.mkv", "3.mkv: 3 frames: give 4 or more"),
        ("connect c.mkv fast.mkv", "fast.mkv 24: give both one rate"),
        ("connect c.mkv big.mkv", "give both one size, such as 32x16"),
        ("connect c.mkv odd.mkv", "odd.mkv: 40x20 pixels: use 32x16"),
        ("connect c.mkv d.mkv --out d.mkv", "would replace the input d.mkv"),
        ("connect c.mkv d.mkv --context 12", "of 9 frames, a context of 12: use 9"),
        ("edit c.mkv", "required: prompt"),
        ("edit c.mkv a --strength 1.5", "1.5 is not in [0, 1]: use 1"),
        ("edit c.mkv a --strength -0.1", "-0.1 is not in [0, 1]: use 0"),
        ("edit c.mkv a --strength nan", "nan is not in [0, 1]"),
        ("edit odd.mkv a", "odd.mkv: 40x20 pixels: use 32x16"),
        ("inpaint c.mkv", "required: --mask"),
        ("inpaint c.mkv --mask big.png", "mask is 48x32 pixels, the clip 32x16"),
        ("inpaint c.mkv --mask 3.mkv", "the mask has 3 frames, the clip 9"),
        ("inpaint c.mkv --mask black.png", "nothing to inpaint: paint white"),
        ("inpaint c.mkv --mask bad.mp4", "bad.mp4: not a video or image"),
        ("inpaint c.mkv --mask mask.mkv --out mask.mkv", "replace the input mask.mkv"),
        ("outpaint c.mkv", "required: --size"),
        ("outpaint c.mkv --size 32x16", "9 frames of 32x16 fills 32x16: use a larger"),
        ("outpaint c.mkv --size 33x48", "33 pixels wide: use 32 or 48"),
        ("outpaint c.mkv --size 64x16000", "16000 pixels high: use 8192 or less"),
        ("upscale c.mkv --size 16x16", "use 32x16 or more"),
        ("upscale c.mkv --size 65x33", "65x33 pixels: use 64x32 or 80x48"),
        ("upscale c.mkv --size 16000x8000", "16000 pixels wide: use 8192 or less"),
        ("upscale c.mkv --size 64x32 --strength 2", "2 is not in [0, 1]: use 1"),
        ("upscale c.mkv --size 64x32 --tile 32x32", "use sides of 48 or more"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    run, awkward, place, monkeypatch, line, says
):
    monkeypatch.setattr(sampling, "sample", None)
    before = outputs_below(place)
    status, paths, told = run(line)
    assert (status, paths) == (2, [])
    assert len(told) == 1
    assert says in told[0]
    assert told[0].startswith(f"soraflax {line.split()[0]}: ")
    assert outputs_below(place) == before


def outputs_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("line", "says", "shape"),
    [
        ("extend odd.mkv --fit resize", "40x20 becomes 32x16", (17, 16, 32)),
        ("connect c.mkv big.mkv --fit resize --frames 4", "48x32", (22, 16, 32)),
        ("outpaint odd.mkv --size 32x48", "40x20 becomes 32x16", (9, 48, 32)),
        ("outpaint big.mkv --size 32x48", "resized, the middle kept", (9, 48, 32)),
        ("upscale c.mkv --size 64x48", "32x16 becomes 64x48", (9, 48, 64)),
        ("animate big.png --size 32x16 --frames 5", "48x32 becomes", (5, 16, 32)),
        ("edit c.mkv ''", "the prompt is empty", (9, 16, 32)),
    ],
)
def test_what_is_changed_is_told(run, awkward, line, says, shape):
    status, _, told = run(f"{line} --out out.mkv")
    assert status == 0
    assert len(told) == 1
    assert says in told[0]
    assert read("out.mkv").shape == (*shape, 3)
    assert [
        f"soraflax {line.split()[0]}: {n}" for n in record("out.mkv")["notes"]
    ] == told


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    "line", ["extend {} --frames 4", "edit {} a", "inpaint {} --mask mask.png"]
)
def test_clips_of_few_frames_will_do(run, awkward, count, line):
    status, _, told = run(line.format(f"{count}.mkv"), "--out", "out.mkv")
    assert (status, told) == (0, [])
    video, given = read("out.mkv"), read(f"{count}.mkv")
    assert len(video) == count + 4 * line.startswith("extend")
    kept = {"extend": np.s_[:], "inpaint": LEFT, "edit": np.s_[:0]}[line.split()[0]]
    np.testing.assert_array_equal(video[:count][kept], given[kept])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_works(run, clip, name):
    status, help_text, _ = run([name, "--help"])
    assert status == 0
    words = shlex.split(" ".join(help_text).split("example: soraflax ")[1])
    assert words[0] == name
    clip("clip.mp4", 5)
    clip("first.mp4")
    clip("second.mp4", seed=1)
    clip("picture.png", 1)
    media.write_video("mask.png", conftest.squares(1, seed=5), fps=8.0)
    assert "--checkpoint" not in words  # the fixture adds one, of fewer steps
    status, paths, _ = run(words)
    assert status == 0
    assert paths == [words[words.index("--out") + 1]]
    assert len(read(paths[0])) >= 1


@pytest.fixture
def odd(place, monkeypatch):
    """A clip, a mask and an image, of each of which reading says something.

    What is made of them is black at once.
    """

    def black(model, jobs, *, write, **others):
        for number, job in enumerate(jobs):
            width, height = job.conditioning.size
            shape = (job.conditioning.length, height, width, 3)
            write(number, np.zeros(shape, np.uint8))

    monkeypatch.setattr(sampling, "sample", black)
    path = pathlib.Path("live.mkv")
    path.write_bytes(samples.encode(conftest.squares(8), muxer={"live": "1"}))
    for name in ("mask.webp", "image.webp"):
        pixels = np.zeros((16, 32, 3), np.uint8)
        pixels[:, 16:] = 255
        profile = samples.profile(samples.P3)
        data = samples.picture("webp", pixels, icc_profile=profile)
        pathlib.Path(name).write_bytes(data)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("animate image.webp --last-frame image.webp --frames 5", ["image.webp"]),
        ("extend live.mkv --frames 4 --context 5", ["live.mkv"]),
        ("loop live.mkv --frames 4 --context 4", ["live.mkv"]),
        ("connect live.mkv live.mkv --frames 4 --context 4", ["live.mkv"]),
        ("edit live.mkv a", ["live.mkv"]),
        ("inpaint live.mkv --mask mask.webp", ["live.mkv", "mask.webp"]),
        ("outpaint live.mkv --size 48x16", ["live.mkv"]),
        ("upscale live.mkv --size 64x32", ["live.mkv"]),
    ],
)  # fmt: skip
def test_what_reading_did_is_told_once_and_kept(run, odd, line, names):
    status, _, told = run(f"{line} --out out.mkv")
    assert status == 0, told
    says = {".mkv": "recorded live", "webp": "colours by its profile"}
    lines = [text for text in told if any(word in text for word in says.values())]
    assert len(lines) == len(names)
    for text, name in zip(lines, names, strict=True):
        assert f": {name}: {says[name[-4:]]}" in text
    notes = json.loads(pathlib.Path("out.mkv.json").read_text())["notes"]
    assert [line.split(": ", 1)[1] for line in lines] == [
        note for note in notes if any(word in note for word in says.values())
    ]


def test_a_transition_begins_as_that_of_the_library():
    root = cli.Parser(prog="soraflax")
    connect.add_parser(root.add_subparsers(dest="command"))
    given = root.parse_args(["connect", "c.mkv", "d.mkv", "--out", "out.mkv"])
    assert given.strength == tasks.TRANSITION_STRENGTH
