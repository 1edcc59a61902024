"""The ablation: arms differ in captions alone; figures say what was put into them."""

import json
import pathlib
import random
from collections.abc import Sequence

import numpy as np
import pytest

from data_pipelines.worlds import bodies
from experiments import train
from experiments.reports import recaption, scoreboard
from experiments.reports import recaption_arms as arms

TEXT = "a large red circle moves left on a white background"


def test_uploaders_leave_out_shuffle_err_and_name_files() -> None:
    said = [arms.noisy(TEXT, random.Random(seed)) for seed in range(2000)]
    files = [text for text in said if text.endswith(".mp4")]
    assert 0.17 < len(files) / 2000 < 0.23
    others = [text.split() for text in said if not text.endswith(".mp4")]
    own = TEXT.split()
    kinds = [kind[1:] for kind in bodies.word_kinds(bodies.VARIANTS["demo"])]
    wrong = [{*words} - {*own} for words in others]
    assert max(map(len, wrong)) == 1 and all(words for words in others)
    for word in {word for words in wrong for word in words}:
        kind = next(kind for kind in kinds if word in kind)
        assert {*kind} & {*own}, f"{word} took the place of no word of its kind"
    assert 0.3 < np.mean([bool(words) for words in wrong]) < 0.5
    shorter = np.mean([len(words) < len(own) for words in others])
    assert 0.4 < shorter < 0.6
    whole = [words for words in others if len(words) == len(own)]
    moved = [words for words in whole if words[-1] != "background"]
    assert 0.15 < len(moved) / len(whole) < 0.3
    assert said == [arms.noisy(TEXT, random.Random(seed)) for seed in range(2000)]


def _readings(rights: dict[str, float], *, seeds: int = 3, prompts: int = 96):
    """Readings of arms that are right in these shares of every attribute."""
    rng = np.random.default_rng(0)
    luck = rng.random((3, seeds, prompts))  # the same prompts are hard for all arms
    names = ("background", "colour", "size")
    return {
        arm: arms.Readings(
            own={
                n: (luck[k] < share)[..., None].astype(float)
                for k, n in enumerate(names)
            },
            others=dict.fromkeys(names, 0.3),
            features=rng.normal(size=(seeds * prompts, 4)) + share,
            shown=[],
        )
        for arm, share in rights.items()
    }


def _claim(**rights: float) -> scoreboard.Claim:
    rng = np.random.default_rng(1)
    shares = {"accuracy": {"colour": 1.0}}
    return recaption.to_claim(
        _readings(rights),
        ablation=arms.Ablation(),
        statistics=dict.fromkeys(arms.ARMS, shares),
        expansion={"short": np.zeros((3, 96)), "expanded": np.ones((3, 96))},
        renders=rng.normal(size=(288, 4)) + 1.0,
        training_flops=3.0,
    )


def test_what_the_captioner_recovers_is_said_with_its_interval() -> None:
    claim = _claim(uploader=0.5, captioner=0.86, detailed=0.9)
    assert claim.verdict == "shown" and claim.flops == 3.0
    figures = {figure.name: figure for figure in claim.figures}
    gain = claim.figures[0]
    assert 0.3 < gain.value < 0.42 and 0.25 < gain.low < gain.value < gain.high
    recovered = figures["recovered of the way to the truth"]
    assert 0.8 < recovered.low < 0.9 < recovered.high < 1.0
    assert abs(figures["attributes, uploader"].value - 0.5) < 0.05
    assert figures["colour, detailed"].count == 288
    near = figures["Fréchet distance, detailed"]
    far = figures["Fréchet distance, uploader"]
    assert near.high < far.low and near.better == "low"
    expansion = figures["short prompts, expanded less as they are"]
    assert (expansion.low, expansion.value, expansion.high) == (1.0, 1.0, 1.0)


def test_where_truth_does_no_better_nothing_is_recovered() -> None:
    claim = _claim(uploader=0.8, captioner=0.8, detailed=0.8)
    assert claim.verdict == "not shown"
    assert not any("recovered" in figure.name for figure in claim.figures)
    assert any("no way" in note for note in claim.notes)
    worse = _claim(uploader=0.8, captioner=0.6, detailed=0.9)
    assert worse.verdict == "not shown" and worse.figures[1].high < 0


def in_this_process(words: Sequence[str]) -> int:
    """`sweep.train_here` without another interpreter."""
    return train.main(words)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """The ablation at tiny size: its output, its claim, and what was trained."""
    output = tmp_path_factory.mktemp("report")
    calls: list[list[str]] = []

    def run(words: Sequence[str]) -> int:
        calls.append([*words])
        return in_this_process(words)

    ablation = arms.Ablation(
        config="bodies:tiny",
        clips=24,
        steps=2,
        seeds=1,
        prompts=2,
        samples=2,
        solver_steps=1,
    )
    claim = recaption.make(output, ablation, run=run)
    return output, ablation, claim, calls


def test_arms_differ_in_captions_alone(made) -> None:
    output, ablation, claim, calls = made
    assert len(calls) == 3
    named = [
        [word for word in words if "captions.names" in word or "--workdir" in word]
        for words in calls
    ]
    rest = [
        [word for word in words if word not in own]
        for words, own in zip(calls, named, strict=True)
    ]
    assert rest[0] == rest[1] == rest[2]
    assert [own[0] for own in named] == [
        f"--config.data.captions.names=('{arm}',)" for arm in arms.ARMS
    ]
    texts = {
        arm: (output / "recaption/latents/captions" / f"{arm}.jsonl").read_text()
        for arm in (arms.UPLOADER, arms.CAPTIONER)
    }
    ids = [[json.loads(line)["id"] for line in t.splitlines()] for t in texts.values()]
    assert ids[0] == ids[1] and len(ids[0]) == ablation.clips + 2
    assert texts[arms.UPLOADER] != texts[arms.CAPTIONER]
    assert claim.flops > 0 and (output / "recaption" / recaption.SHEET).is_file()
    by_name = {figure.name: figure for figure in claim.figures}
    assert {f"shape, {arm}" for arm in arms.ARMS} <= {*by_name}
    assert by_name["shape, uploader"].count == 4  # prompts x samples


def test_what_was_trained_is_left_alone_and_other_sizes_are_refused(made) -> None:
    output, ablation, claim, _ = made

    def never(words: Sequence[str]) -> int:
        raise AssertionError(words)

    again = recaption.make(output, ablation, run=never)
    assert again.figures == claim.figures
    line = ["--output", str(output), "--quick", "--steps", "3"]
    status = recaption.main(line)
    assert status == 2
    with pytest.raises(ValueError, match=r"holds runs of .*another --output"):
        recaption.make(output, arms.QUICK, run=never)


def test_a_run_that_fails_or_stops_is_said(tmp_path: pathlib.Path) -> None:
    data = tmp_path / "latents"
    about = {"data": data, "arm": "uploader", "seed": 0}
    ablation = arms.Ablation(config="bodies:tiny")
    with pytest.raises(ValueError, match="uploader-0 failed; the same command"):
        arms.train(ablation, tmp_path, run=lambda words: 2, **about)
    with pytest.raises(KeyboardInterrupt, match="goes on"):
        arms.train(ablation, tmp_path, run=lambda words: 130, **about)


def test_bad_input_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for line, message in (
        ("--config bodis", "bodies"),
        ("--captioner nowhere", "nowhere: no such directory"),
        ("--latents nowhere", "nowhere"),
        (f"--latents {tmp_path / 'empty'}", "no dataset"),
        ("--attributes direction colour", "use --modality both"),
        ("--attributes hue", "invalid choice: 'hue'"),
        ("--prompts 19", "19 prompts: this config holds 18 different ones"),
        ("--steps 0", "0"),
        ("--modality clips", "invalid choice: 'clips'"),
    ):
        words = ["--output", str(tmp_path / "report"), *line.split()]
        try:
            status = recaption.main(words)
        except SystemExit as stop:
            status = stop.code
        told = capsys.readouterr()
        assert status == 2 and message in told.err, (line, told.err)
        assert len(told.err.splitlines()) == 1 and not told.out, told.err
        assert not (tmp_path / "report" / "recaption" / "settings.json").exists()
