"""Bodies move as mechanics says, and bounces are noted."""

import numpy as np
import pytest

from data_pipelines.worlds import scenes, truth


def _scene(*bodies, **changes):
    values = {"width": 64, "height": 64, "frames": 17, "fps": 8.0, "background": "gray"}
    return scenes.Scene(**(values | changes), bodies=bodies)


def _body(position, velocity=(0.0, 0.0), shape="circle"):
    return scenes.Body(
        colour="red",
        shape=shape,
        size="small",
        direction=None,
        radius=0.1,
        position=position,
        velocity=velocity,
    )


def test_even_motion_is_a_straight_line():
    motion = scenes.simulate(_scene(_body((0.2, 0.5), (0.3, 0.0))))
    np.testing.assert_allclose(motion.position[-1, 0], [0.8, 0.5], atol=1e-3)
    steps = np.diff(motion.position[:, 0, 0])
    np.testing.assert_allclose(steps, steps[0], atol=2e-4)
    assert motion.events == ()


def test_a_fall_follows_gravity_and_bounces_off_the_floor():
    scene = _scene(_body((0.5, 0.3)), gravity=1.0, walls=True)
    motion = scenes.simulate(scene)
    time = np.arange(6) / 8
    fallen = 0.3 + 0.5 * time**2
    np.testing.assert_allclose(motion.position[:6, 0, 1], fallen, atol=0.01)
    assert motion.events[0].against == "floor"
    assert motion.position[:, 0, 1].max() <= 0.9 + 1e-3
    assert truth.directions(scene, motion) == [None]


@pytest.mark.parametrize("shape", ["circle", "square", "ring"])
def test_equal_bodies_exchange_their_speeds(shape):
    scene = _scene(_body((0.2, 0.5), (0.4, 0.0), shape), _body((0.6, 0.5), shape=shape))
    motion = scenes.simulate(scene)
    speed = (motion.position[-1] - motion.position[-2])[:, 0] * scene.fps
    assert speed.sum() == pytest.approx(0.4, abs=0.02)
    assert speed[1] > 0.3
    assert {(e.body, e.against) for e in motion.events} == {(0, "1"), (1, "0")}


@pytest.mark.parametrize("fps", [4.0, 24.0, 120.0])
def test_motion_does_not_depend_on_the_frame_rate(fps):
    frames = int(fps) + 1
    scene = _scene(_body((0.5, 0.2)), gravity=0.8, fps=fps, frames=frames)
    end = scenes.simulate(scene).position[-1, 0]
    np.testing.assert_allclose(end, [0.5, 0.6], atol=0.02)


def test_the_camera_moves_the_screen_and_not_the_world():
    scene = _scene(_body((0.5, 0.5)), pan=0.1)
    motion = scenes.simulate(scene)
    assert truth.directions(scene, motion) == ["still"]
    np.testing.assert_allclose(motion.screen(scene)[-1, 0], [0.3, 0.5], atol=1e-3)
