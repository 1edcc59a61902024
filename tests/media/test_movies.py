"""Movies: streams, fields, apertures, changes, fragments."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from soraflax import media
from soraflax.media import pixels
from tests.media import samples


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_cover_is_passed_over(container):
    found = media.probe(samples.with_cover(container, video=True))
    assert (found.frames, found.codec) == (12, "h264")


def test_audio_with_a_cover_is_no_video():
    with pytest.raises(media.MediaError, match=r"only a cover picture.*holds audio"):
        media.probe(samples.with_cover("mp4", video=False))


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_audio_alone_is_no_video(container):
    with pytest.raises(media.MediaError, match=r"no video stream in it \(it holds aud"):
        media.probe(samples.sound_alone(container))


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_words_before_the_video_are_passed_over(container):
    data = samples.with_words_first(container)
    with samples.opened(io.BytesIO(data)) as file:
        assert [stream.type for stream in file.streams] == ["subtitle", "video"]
    assert np.array_equal(
        media.decode(data).frames, media.decode(samples.h264()).frames
    )


@pytest.mark.parametrize(("rows", "matrix"), [(704, 5), (720, 1)])
def test_a_matrix_that_is_not_said_is_what_players_take(rows, matrix):
    """Of the same samples as those of a file that says it."""

    def tag(stream, space):
        stream.codec_context.colorspace = space

    colour = np.full((1, rows, 64, 3), samples.BLUE, np.uint8)
    told, untold = (
        media.decode(samples.h264(colour, edit=lambda s, m=m: tag(s, m))).frames
        for m in (matrix, 2)
    )
    assert np.array_equal(told, untold)
    if matrix != 5:
        other = media.decode(samples.h264(colour, edit=lambda s: tag(s, 5))).frames
        assert not np.array_equal(other, untold)


@pytest.mark.parametrize(
    ("primaries", "layout", "matrix"),
    [(2, "yuv420p", 2), (9, "yuv420p", 9), (9, "rgb24", 2)],
)
def test_a_matrix_is_that_of_wide_primaries(primaries, layout, matrix):
    frame = av.VideoFrame(64, 64, layout)
    frame.color_primaries, frame.colorspace = primaries, 2
    pixels.complete_matrix(frame)
    assert int(frame.colorspace) == matrix


def test_jpegs_keep_their_own_matrix():
    tall = np.full((720, 64, 3), samples.BLUE, np.uint8)
    jpeg = samples.picture("jpeg", tall)
    data = samples.jpegs_in_a_movie(jpeg, frames=1)
    assert np.abs(media.decode(data).frames.astype(int) - samples.BLUE).max() <= 3


def test_the_first_of_two_videos_is_read():
    with_two = samples.two_videos()
    found = media.probe(with_two)
    assert (found.frames, found.width) == (12, 48)
    assert found.notes == ("2 videos in it: the first is read",)


def combing(frames: np.ndarray) -> float:
    """How much rows differ from those above more than from those two above."""
    rows = frames.astype(float)
    near = np.abs(rows[:, 2:] - rows[:, 1:-1]).mean()
    return near - np.abs(rows[:, 2:] - rows[:, :-2]).mean()


def test_fields_are_made_frames():
    frames = samples.woven(samples.moving(24, 64, 96))
    options = {"x264-params": "interlaced=1:tff=1", "crf": "4", "preset": "fast"}
    data = samples.h264(frames, options=options)
    video = media.decode(data)
    assert len(video) == 12 and video.fps == pytest.approx(24)
    assert combing(video.frames) < combing(frames) / 4
    assert "interlaced" in media.probe(data).notes[0]
    part = media.decode(data, start=4, max_frames=3).frames
    assert np.array_equal(part, video.frames[4:7])


def test_a_clean_aperture_cuts_before_it_turns():
    plain = media.decode(samples.h264()).frames
    data = samples.with_clap(samples.h264(), (24, 16, -4, 2))
    shown = media.decode(data).frames
    assert np.array_equal(shown, plain[:, 10:26, 8:32])
    found = media.probe(data)
    assert (found.height, found.width) == (16, 24)
    assert media.decode(data, size=(12, 8)).frames.shape[1:3] == (8, 12)


def test_an_aperture_outside_of_the_frame_changes_nothing():
    data = samples.with_clap(samples.h264(), (480, 16, 0, 0))
    assert media.decode(data).frames.shape == (12, 32, 48, 3)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(8, 9)])
def test_pixels_are_made_square(container, aspect):
    def edit(stream):
        stream.codec_context.sample_aspect_ratio = aspect

    found = media.probe(samples.h264(container=container, edit=edit))
    assert (found.height, found.width) == (32, round(48 * aspect))


@pytest.mark.parametrize(
    ("container", "codec", "pixel_format"),
    [
        ("webm", "libvpx", "yuva420p"),
        ("webm", "libvpx-vp9", "yuva420p"),
        ("mov", "prores_ks", "yuva444p10le"),
        ("mov", "qtrle", "argb"),
        ("mov", "png", "rgba"),
        ("matroska", "ffv1", "bgra"),
    ],
)
def test_what_is_clear_is_white_in_every_codec_with_alpha(
    container, codec, pixel_format
):
    frames = samples.moving(4)
    options = {"auto-alt-ref": "0", "crf": "4", "b": "2M", "cpu-used": "8"}
    if codec == "prores_ks":
        options = {"profile": "4"}
    data = samples.encode(
        samples.clear_but_red(frames),
        container=container,
        codec=codec,
        pixel_format=pixel_format,
        options=options if codec in ("libvpx", "libvpx-vp9", "prores_ks") else {},
    )
    shown = media.decode(data).frames
    red = (frames == samples.RED).all(-1)
    assert shown[~red].mean() > 245 and shown[red][:, 1].mean() < 90


def test_a_size_that_changes_is_refused_with_where():
    frames = [samples.picture("jpeg", samples.moving(1)[0])] * 2
    frames += [samples.picture("jpeg", samples.moving(1, 32, 64)[0])]
    with pytest.raises(media.MediaError, match=r"frame 2 is 64 x 32.*cut it there"):
        media.decode(samples.jpegs_in_a_movie(*frames, frames=1))


def test_a_pixel_format_that_changes_is_read():
    first = samples.picture("jpeg", subsampling=2)
    second = samples.picture("jpeg", subsampling=0)
    shown = media.decode(samples.jpegs_in_a_movie(first, second, frames=1)).frames
    assert np.abs(shown.astype(int) - samples.moving(1)).mean() < 6


def test_fragments_are_read_and_a_cut_within_one_is_refused():
    options = samples.X264 | {"bf": "0", "g": "4"}
    data = samples.h264(
        samples.moving(24),
        options=options,
        muxer={"movflags": "frag_keyframe+empty_moov"},
    )
    found = media.probe(data)
    assert (found.frames, found.notes) == (24, ())
    at = 0
    while at < len(data):
        if data[at + 4 : at + 8] == b"mdat":  # after the header of its fragment
            with pytest.raises(media.MediaError):
                media.probe(data[:at])
            with pytest.raises(media.MediaError, match="bytes are missing"):
                media.probe(data[: at + 40])
        at += struct.unpack(">I", data[at : at + 4])[0]


def test_what_was_recorded_live_is_read_with_a_note():
    options = samples.X264 | {"bf": "0", "g": "4"}
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    data = samples.h264(samples.moving(24), options=options, muxer=fragments)
    without_index = data[: data.index(b"mfra") - 4]
    assert "recorded live" in media.probe(without_index).notes[0]
    live = samples.encode(samples.moving(), muxer={"live": "1"})
    found = media.probe(live)
    assert found.frames == 12 and "recorded live" in found.notes[0]


@pytest.mark.parametrize(
    ("transfer", "level", "shown"),
    [(16, 573, 253), (18, 721, 254), (16, 64, 0), (14, 940, 253)],
)
def test_wide_and_bright_colours_are_brought_to_srgb(transfer, level, shown):
    """White of 203 cd/m2 (PQ 0.58, HLG 0.75) is white."""

    def edit(frame):
        luma = np.full(frame.planes[0].buffer_size // 2, level, np.uint16)
        frame.planes[0].update(luma.tobytes())

    def tag(stream):
        context = stream.codec_context
        context.color_trc, context.color_primaries = transfer, 9
        context.colorspace, context.color_range = 9, 1

    data = samples.encode(
        np.full((2, 32, 48, 3), 128, np.uint8),
        pixel_format="yuv420p10le",
        edit=tag,
        edit_frame=edit,
    )
    found = media.probe(data)
    assert "BT.2020" in found.notes[0]
    pixels = media.decode(data).frames.astype(int)
    assert np.abs(pixels - shown).max() <= 4


def test_many_frames_are_streamed_one_at_a_time(tmp_path):
    frames = np.zeros((400, 4, 4, 3), np.uint8)
    frames[:, 0, 0] = np.arange(400)[:, None] % 250
    (tmp_path / "long.gif").write_bytes(samples.animation("gif", frames))
    with media.open_frames(tmp_path / "long.gif") as stream:
        assert stream.frames == sum(1 for _ in stream)


def test_pyav_has_what_the_samples_need():
    needed = {"libx264", "libx265", "libvpx", "libvpx-vp9", "prores_ks", "ffv1"}
    assert needed <= av.codecs_available


@pytest.mark.parametrize("container", ["avi", "matroska"])
@pytest.mark.parametrize("indices", [(3,), (3, 4), (11,), (2, 10, 11)])
def test_frames_that_are_not_coded_show_the_one_before(container, indices):
    video = media.decode(samples.with_frames_not_coded(container, *indices))
    assert len(video) == 12 and video.fps == pytest.approx(24)
    for index in indices:
        assert np.array_equal(video.frames[index], video.frames[index - 1])
