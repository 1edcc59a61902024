"""Videos in memory: sizes, files and pictures in a page."""

import base64
import re

import numpy as np
import pytest

from soraflax import media

RNG = np.random.default_rng(0)
CLIP = media.Video(RNG.integers(0, 255, (5, 16, 24, 3)).astype(np.uint8), 10.0)
IMAGE = media.Video(CLIP.frames[:1], 1.0)


def test_sizes_are_width_and_height():
    assert CLIP.size == (24, 16) and len(CLIP) == 5 and CLIP.seconds == 0.5
    assert repr(CLIP) == "Video(5 frames of 24x16 at 10 fps)"
    assert repr(IMAGE) == "Video(image of 24x16)"


def test_a_lossless_file_gives_the_frames_back(tmp_path):
    path = CLIP.save(tmp_path / "clip.mkv")
    again = media.read_video(path)
    np.testing.assert_array_equal(again.frames, CLIP.frames)
    assert again.fps == CLIP.fps


def test_a_file_holds_the_metadata(tmp_path):
    about = media.Video(CLIP.frames, CLIP.fps, {"prompt": "noise"})
    path = about.save(tmp_path / "clip.mkv")
    assert media.read_metadata(path)["prompt"] == "noise"


@pytest.mark.parametrize(
    ("video", "tag", "kind"),
    [(CLIP, "video", "video/mp4"), (IMAGE, "img", "image/png")],
)
def test_a_page_shows_it_inline(video, tag, kind):
    html = video._repr_html_()
    data = re.search(rf'<{tag} src="data:{kind};base64,([^"]+)"', html)
    assert data is not None
    shown = media.decode(base64.b64decode(data[1]))
    assert shown.frames.shape == video.frames.shape


def test_a_name_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(media.MediaError, match=r"cannot write '\.txt'"):
        CLIP.save(tmp_path / "clip.txt")
