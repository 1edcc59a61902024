import json

import numpy as np

from experiments.benchmarks import decoded_motion


def moving(places):
    """Clips `[1, T, 16, 40, 3]` of a bright square at these places."""
    video = np.zeros((1, len(places), 16, 40, 3), np.uint8)
    for frame, left in enumerate(places):
        video[0, frame, 4:12, left : left + 8] = 255
    return video


def test_motion_that_is_kept_has_pace_one_and_what_jumps_does_not():
    real = moving(range(9))
    np.testing.assert_allclose(decoded_motion.paces(real, real, ratio=4), 1.0)
    # Each latent frame drawn as four frames alike.
    jumps = moving([0, *[2] * 4, *[6] * 4])
    first, *inside = decoded_motion.paces(real, jumps, ratio=4)
    assert first > 1.4
    assert inside == [0.0, 0.0, 0.0]


def test_the_shipped_autoencoder_is_measured(capsys):
    folder = "soraflax/assets/bodies/autoencoder"
    assert decoded_motion.main([folder, "--clips", "2"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["clips"] == 2 and line["psnr_db"] > 25
    assert len(line["pace"]) == 4 and all(0 < pace < 1.5 for pace in line["pace"])
    assert line["agreement"]["colour"] == 1.0


def test_a_folder_that_is_no_autoencoder_is_one_line(tmp_path, capsys):
    assert decoded_motion.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
