"""The rungs of both readings, the picture, and the figures; training is a sweep's."""

import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.configs import bodies
from experiments.scaling import grid, ladder
from soraflax import flops

ROWS = [flops.Lengths([60, 60], [14, 14])]


def _rungs(reading: str) -> list[ladder.Rung]:
    return ladder.rungs(
        ladder.LadderConfig(),
        reading,
        base=bodies.MODEL,
        rows=ROWS,
        rate=grid.LearningRate(),
    )


@pytest.mark.parametrize("reading", ladder.READINGS)
def test_small_rungs_have_three_seeds_and_compute_grows(reading: str) -> None:
    made = _rungs(reading)
    assert [(r.factor, r.seed) for r in made] == [
        *((1, seed) for seed in range(3)),
        *((4, seed) for seed in range(3)),
        (16, 0),
        (32, 0),
    ]
    assert len({r.point.name for r in made}) == len(made)
    for rung in made:
        cost = rung.point.rows * grid.row_flops(rung.point.model, ROWS)
        assert cost * rung.point.steps == pytest.approx(rung.factor * 4e12, rel=0.01)


def test_one_reading_trains_longer_the_other_larger() -> None:
    longer, larger = _rungs("longer"), _rungs("larger")
    assert len({rung.point.parameters for rung in longer}) == 1
    assert longer[-1].point.steps == pytest.approx(32 * longer[0].point.steps, rel=1e-2)
    sizes = [rung.point.parameters for rung in larger]
    assert sizes[-1] / sizes[0] == pytest.approx(np.sqrt(32), rel=0.3)
    assert larger[0].point.steps < larger[-1].point.steps < longer[-1].point.steps
    with pytest.raises(ValueError, match="reading 'deeper'"):
        _rungs("deeper")


def _found(factor: int, seed: int, accuracy: float) -> dict[str, Any]:
    score = {"accuracy": accuracy, "chance": 0.25, "count": 40}
    videos = [np.full((5, 16, 24, 3), (60 * factor, 0, 60), np.uint8)] * 2
    return {
        "rung": f"longer-{factor:02d}x-seed{seed}",
        "factor": factor,
        "seed": seed,
        "flops": factor * 1e12,
        "parameters": 1e5,
        "validation_loss": 1.0 / factor,
        "frechet": 10.0 / factor,
        "accuracy": {"colour": score, "shape": score},
        "prompts": ["a red circle", "a long prompt " * 4],
        "videos": videos,
    }


def test_the_ladder_is_shown_only_where_its_last_rung_wins(
    tmp_path: pathlib.Path,
) -> None:
    rows = [_found(1, 0, 0.3), _found(1, 1, 0.4), _found(4, 0, 0.9)]
    ceiling = {"colour": {"accuracy": 1.0}}
    claim = ladder.to_claim("longer", rows, ceiling=ceiling)
    assert claim.verdict == "shown" and claim.flops == 6e12
    first = claim.figures[0]
    assert first.value == pytest.approx(0.9 - 0.35)
    by_name = {figure.name: figure for figure in claim.figures}
    assert by_name["1x colour"].count == 80 and by_name["1x colour"].ceiling == 1.0
    assert by_name["4x frechet, by seed"].value == 2.5
    level = [_found(1, 0, 0.5), _found(4, 0, 0.5)]
    assert ladder.to_claim("longer", level, ceiling=ceiling).verdict == "not shown"
    ladder.draw(tmp_path / "ladder.png", [rows[0], rows[2]], scale=2)
    with Image.open(tmp_path / "ladder.png") as picture:
        pixels = np.asarray(picture)
    for factor in (1, 4):  # two prompts, three frames of each, enlarged twice
        shown = (pixels == (60 * factor, 0, 60)).all(-1)
        assert shown.sum() == 2 * 3 * 32 * 48


def test_a_failed_rung_is_told_before_anything_is_measured(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder.sweep, "measure_rows", lambda *_: ROWS)
    seen: list[Any] = []

    def run(words: Any) -> int:
        seen.append(words)
        return 2

    with pytest.raises(ValueError, match="rung longer-01x-seed0 failed"):
        ladder.make(
            tmp_path,
            "longer",
            config=ladder.QUICK,
            data=tmp_path / "latents",
            autoencoder=tmp_path / "ae",
            run=run,
        )
    assert "--config.seed=0" in seen[0] and len(seen) == 2
    assert not (tmp_path / "ladder.json").exists()


def test_distance_of_a_set_to_itself_is_none() -> None:
    random = np.random.default_rng(0)
    clips = [random.integers(0, 255, (5, 16, 16, 3), np.uint8) for _ in range(3)]
    assert ladder.frechet_distance(clips, clips) == pytest.approx(0.0, abs=1e-4)
    assert np.isnan(ladder.frechet_distance(clips[:1], clips))
