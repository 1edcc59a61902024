"""The page of the dataset format: its program reads one, its tables are the schema."""

import re
from pathlib import Path

import pytest

from data_pipelines.builders import base, latent_records
from tests.data_pipelines import clip_data

PAGE = (Path(__file__).parents[2] / "docs" / "dataset_format.md").read_text()


def _tables() -> dict[str, set[str]]:
    """Kind of dataset to the fields in its table."""
    found = {}
    for kind, body in re.findall(r"\| field of `(\w+)` .*\n((?:\|.*\n)+)", PAGE):
        cells = [row.split("|")[1] for row in body.splitlines()[1:]]
        found[kind] = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    return found


def test_the_tables_name_every_field_and_no_other(tmp_path: Path) -> None:
    builder = latent_records.Latents(data_dir=tmp_path, examples={})
    assert _tables() == {
        "clips": set(base.clip_features()),
        "latents": set(builder.features()),
    }


def test_plain_python_reads_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert "soraflax" not in program.replace("nor soraflax", "")
    assert len([line for line in program.splitlines() if line]) <= 10
    clip_data.write_clips(tmp_path / "DATASET", train=3, validation=1)
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["clip-0", "clip-1", "clip-2"]
    assert "{'detailed': 'this is clip 0', 'short': 'clip 0'}" in lines[0]
