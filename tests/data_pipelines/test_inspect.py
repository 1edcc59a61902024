"""The command, on datasets that are curated and on others."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import inspect, records
from tests.data_pipelines import clip_data


def test_a_dataset_becomes_a_page_a_picture_and_facts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = clip_data.write_clips(tmp_path / "data")
    report = dataset / records.REPORT
    lines = [
        {
            "input": f"clip-{index}",
            "outcome": "kept",
            **dict(zip(("frames", "height", "width"), size, strict=True)),
            "fps": 8.0,
        }
        for index, size in enumerate(clip_data.SIZES)
    ]
    lines.append(
        {"input": "x.mp4", "outcome": "failed", "reason": "truncated: 3 bytes"}
    )
    report.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [str(dataset), "--row", "256", "--max-tokens", "128", "--pictures", "6"]
    assert inspect.main(words) == 0
    out = tmp_path / "data.report"
    facts = json.loads((out / "report.json").read_text())
    assert facts["splits"] == {"train": 12, "validation": 3}
    assert facts["captions"]["short"]["lengths"] == [2] * 15
    assert facts["captions"]["detailed"]["words"]["clip"] == 15
    assert facts["values"]["duration (s)"][0] == 17 / 8
    assert facts["rejected"] == {"failed: truncated": 1}
    tokens = facts["packing"]["tokens a clip"]
    assert len(tokens) == 6 and max(tokens) <= 128
    full = facts["packing"]["rows"] * 256
    assert sum(tokens) <= full
    with Image.open(out / "report.png") as image:
        assert np.asarray(image).std() > 10
    page = (out / "index.html").read_text()
    assert page.count("<img") > 6 and "clip-0" in page and "x.mp4" in page
    assert "15 clips (12 train, 3 validation)" in capsys.readouterr().out


def test_what_is_no_dataset_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect.main([str(tmp_path)]) == 2
    assert "not a dataset (no dataset.json)" in capsys.readouterr().err
    dataset = clip_data.write_clips(tmp_path / "data", train=1, validation=1)
    words = [str(dataset), "--row", "64", "--max-tokens", "128"]
    assert inspect.main(words) == 2
    assert "is more than --row 64: use 64 or fewer" in capsys.readouterr().err
    (dataset / records.REPORT).write_text("")
    assert inspect.main([str(dataset)]) == 2
    assert "no kept clip in its report" in capsys.readouterr().err
