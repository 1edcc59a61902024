"""A point cloud: cameras and floors of real orbits are found, others are not."""

import math
import pathlib

import numpy as np
import pytest
from PIL import Image

from data_pipelines.worlds import bodies
from experiments.reports import emergence_room, point_cloud, scoreboard, worlds
from tests.generation import tiny


@pytest.fixture(scope="module")
def clips() -> list[bodies.RenderedClip]:
    recipe = worlds.WorldRecipe("room", prompts=12)
    return emergence_room.orbit_clips(recipe)


def _true_turn(clip: bodies.RenderedClip) -> float:
    place = np.array(clip.truth["path"]["position"])
    angle = np.unwrap(np.arctan2(place[:, 0], -place[:, 2]))
    return math.degrees(angle[-1] - angle[0]) / (len(angle) - 1) * clip.fps


def test_the_camera_and_the_floor_of_a_real_orbit_are_found(
    clips: list[bodies.RenderedClip], tmp_path: pathlib.Path
) -> None:
    for clip in clips[:2]:
        orbit = point_cloud.find_orbit(clip.video, fps=clip.fps)
        assert orbit.turn == pytest.approx(_true_turn(clip), abs=1.0)
        assert orbit.left < 0.4
        height = clip.truth["path"]["position"][0][1]
        assert orbit.height == pytest.approx(height, abs=0.15)
    cloud = point_cloud.reconstruct(clip.video, orbit.path)
    assert len(cloud.points) > 1000
    colours = cloud.colours.astype(float)
    floor = np.ptp(colours, axis=1) < 0.42 * colours.max(1)
    assert np.median(np.abs(cloud.points[floor, 1])) < 0.15  # the floor is y = 0
    point_cloud.write_ply(tmp_path / "cloud.ply", cloud)
    lines = (tmp_path / "cloud.ply").read_text().splitlines()
    assert lines[0] == "ply" and f"element vertex {len(cloud.points)}" in lines
    first = [float(word) for word in lines[lines.index("end_header") + 1].split()]
    np.testing.assert_allclose(first[:3], cloud.points[0], atol=1e-3)
    assert first[3:] == cloud.colours[0].tolist()
    assert len(lines) == 10 + len(cloud.points)
    path = tmp_path / "cloud.png"
    point_cloud.draw(path, cloud, frame=clip.video[8], orbit=orbit)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    assert picture.width == 5 * 4 * clip.video.shape[2] + 4 * 4
    assert (pixels[:, 4 * clip.video.shape[2] + 8 :] < 235).any(-1).mean() > 0.02


def test_what_stands_or_is_torn_has_no_orbit(clips: list[bodies.RenderedClip]) -> None:
    still = np.repeat(clips[0].video[:1], 9, axis=0)
    stands = point_cloud.find_orbit(still, fps=8.0)
    assert stands.turn == 0 and stands.left == 1.0
    noise = np.random.default_rng(0).integers(0, 255, still.shape, np.uint8)
    assert point_cloud.find_orbit(noise, fps=8.0).left > 0.8
    with pytest.raises(ValueError, match="use 3 or more"):
        point_cloud.find_orbit(still[:2], fps=8.0)


def test_a_generated_orbit_has_a_cloud_and_figures(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    clips: list[bodies.RenderedClip],
) -> None:
    alone = [clip for clip in clips if len(clip.truth["objects"]) == 1][:1]
    monkeypatch.setattr(emergence_room, "orbit_clips", lambda _: alone)
    tiny.save(tmp_path / "room")
    recipe = worlds.WorldRecipe("room", solver_steps=2, guidance=1.0)
    bare = scoreboard.Claim("emergence_room", "", "", (), machine="")
    claim = emergence_room.with_cloud(bare, tmp_path, recipe=recipe)
    turn, left = claim.figures
    assert turn.ceiling == pytest.approx(abs(_true_turn(alone[0])), abs=40)
    assert left.chance == 1.0 and left.count == 1
    for name, _ in claim.pictures:
        assert (tmp_path / name).is_file()
        assert (tmp_path / name).with_suffix(".ply").is_file()
