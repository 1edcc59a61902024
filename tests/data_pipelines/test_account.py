"""One account of a clip, from its file to the rows of training."""

from data_pipelines import account, transforms
from soraflax.ops import grid as grids

GRID = grids.Grid(4, 8, patch=(1, 2, 2))
REPORT = [
    {"input": "broken.mp4", "outcome": "failed", "reason": "not a video"},
    {"input": "long.mp4", "outcome": "kept", "split": "train", "notes": ["turned"]},
    {"input": "short.gif", "outcome": "kept", "split": "train"},
    {"input": "photo.png", "outcome": "kept", "split": "validation"},
]


def _fit(frames, height, width, *, fps):
    config = transforms.FitConfig(max_tokens=256, max_frames=17)
    return transforms.plan_fit(
        frames, height, width=width, fps=fps, grid=GRID, config=config
    )


def _joined(*extra):
    fits = [
        ("long.mp4", "long.mp4", 3, _fit(41, 192, 256, fps=25.0)),
        ("short.gif", "short.gif", 0, _fit(4, 64, 64, fps=10.0)),
        ("photo.png", "photo.png", 0, _fit(1, 64, 64, fps=1.0)),
        *extra,
    ]
    return list(
        account.with_windows(REPORT, fits, splits={"new.mp4": "train"}, failed={})
    )


def test_a_line_follows_a_clip_from_file_to_window():
    broken, long, short, photo = _joined()
    assert broken == REPORT[0]
    assert long["outcome"] == "kept" and long["notes"] == ["turned"]
    assert (long["frames"], long["width"], long["fps"]) == (41, 256, 25.0)
    (window,) = long["windows"]
    assert window["start"] == 3 and window["fitted"]["frames"] == 17
    assert window["fitted"]["width"] < 256
    assert long["lost_seconds"] == window["trimmed_seconds"] == 0.96
    assert short["windows"][0]["fitted"]["frames"] == 1
    assert photo["split"] == "validation" and photo["lost_seconds"] == 0


def test_windows_that_overlap_lose_what_none_of_them_covers():
    fit = _fit(41, 64, 64, fps=10.0)
    fits = [("a", "a#0", 0, fit), ("a", "a#1", 10, fit)]
    (line,) = account.with_windows([], fits, splits={"a": "train"}, failed={})
    assert line["lost_seconds"] == 1.4  # 41 frames, less 0..26
    assert [window["id"] for window in line["windows"]] == ["a#0", "a#1"]


def test_a_clip_that_no_report_names_has_a_line_all_the_same():
    *_, line = _joined(("new.mp4", "new.mp4", 0, _fit(5, 64, 64, fps=8.0)))
    assert line["input"] == "new.mp4" and line["split"] == "train"


def test_a_clip_that_became_none_says_why():
    failed = {"long.mp4": "long.mp4: no frame", "gone": "record 7 is damaged"}
    lines = list(account.with_windows(REPORT, [], splits={}, failed=failed))
    told = {k["input"]: k["reason"] for k in lines if k["outcome"] == "failed"}
    assert told == {"broken.mp4": "not a video"} | failed


def test_the_summary_says_what_was_refused_resized_cut_and_made_an_image():
    assert account.summary(_joined()) == [
        "inputs: 4; clips of them: 3",
        "failed: broken.mp4: not a video",
        "changed: long.mp4: turned",
        "as stored: 1 to 41 frames, 64x64 to 256x192, 10 to 25 frames per second, "
        "2.0 seconds in all",
        "resized: 1 of 3; the most: long.mp4, 256x192 to 128x96",
        "cut in time: 2 of 3, 1.26 of 2.04 seconds; the most: long.mp4, 41 frames "
        "to 17, 0.96 seconds",
        "of several frames, now one image: 1 of 3; the first: short.gif, 4 frames",
        "tokens: 16 to 240 a window, 272 in all",
    ]


def test_the_summary_names_a_few_and_counts_the_rest():
    failed = [
        {"input": f"{n}\n.mp4", "outcome": "failed", "reason": "cut off"}
        for n in range(25)
    ]
    lines = account.summary(failed)
    assert lines[0] == "inputs: 25; clips of them: 0"
    assert lines[1] == "failed: 0\\n.mp4: cut off"
    assert lines[-1] == "and 15 more in report.jsonl" and len(lines) == 12


def test_a_dataset_without_an_account_has_its_counts():
    info = {"kind": "latents", "splits": {"train": 1200, "validation": 3}}
    assert account.block("L", info) == ["L: 1,203 latents (1,200 train, 3 validation)"]
