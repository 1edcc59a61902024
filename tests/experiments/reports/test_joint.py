"""Joint training is shown where neither clips nor images lose by it."""

from experiments.reports import joint


def _rows(both: int, video: int) -> dict:
    def row(right: int) -> tuple[list[bool], list[bool]]:
        return [True] * right + [False] * (200 - right), [True] * 20 + [False] * 80

    return {
        ("images", "clips"): row(20),
        ("images", "images"): row(150),
        ("video", "clips"): row(video),
        ("video", "images"): row(60),
        ("both", "clips"): row(both),
        ("both", "images"): row(150),
    }


def test_the_verdict_is_of_clips_with_an_allowance() -> None:
    assert joint.to_claim(_rows(180, 150), training_flops=1.0).verdict == "shown"
    assert joint.to_claim(_rows(120, 150), training_flops=1.0).verdict == "not shown"
    claim = joint.to_claim(_rows(180, 150), training_flops=3.0)
    assert claim.flops == 3.0 and len(claim.figures) == 8
    assert claim.figures[0].chance == -joint.ALLOWED_LOSS
    by_name = {figure.name: figure for figure in claim.figures}
    assert by_name["clips of a model of images"].value == 0.1
    assert by_name["clips of a model of images"].chance == 0.2
