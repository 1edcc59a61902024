"""Recaptioning by Beam's DirectRunner: the captions that this process writes."""

from pathlib import Path

import pytest

from data_pipelines import added_captions, recaption
from data_pipelines.curate import runners
from soraflax.pretrained import shipped
from tests.data_pipelines import clip_data

OWN = """
def caption(video):
    return f"{len(video)} frames"
"""


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", ["function", "captioner"])
def test_the_direct_runner_writes_the_same_captions(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "captions_by_beam.py").write_text(OWN)
    clip_data.write_clips(tmp_path / "clips", train=5, validation=1)
    writer = recaption.Writer(function="captions_by_beam:caption")
    if kind == "captioner":
        writer = recaption.Writer(captioner=str(shipped.captioner_or_given(None)))
    beam = runners.Beam(["--runner=DirectRunner"])
    made = {}
    for name, runner in (("here", None), ("beam", beam)):
        statistics = recaption.recaption(
            "clips",
            writer=writer,
            name=name,
            runner=runner,
            chunk=2,
            cache=tmp_path / name,
        )
        assert (statistics["written"], statistics["cached"]) == (6, 0)
        made[name] = added_captions.read("clips")[name]
    assert made["beam"] == made["here"]
    again = recaption.recaption(
        "clips",
        writer=writer,
        name="beam",
        runner=beam,
        chunk=2,
        cache=tmp_path / "beam",
    )
    assert (again["written"], again["cached"]) == (0, 6)
