"""Three commands of a page: raw files, good and hostile, to a dataset and training."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from data_pipelines import records
from soraflax.train import metrics
from tests.data_pipelines.curate import hostile

ROOT = pathlib.Path(__file__).parents[2]
CLIPS = ROOT / "tests" / "data" / "clips"
PAGE = ROOT / "docs" / "curation.md"
# Of a run that is to end soon: two steps of a small model, on short and small clips.
SHORT = (
    "--config.train.steps=2",
    "--config.train.log_every=1",
    "--config.model.depth=1",
    "--config.cache.fit.max_tokens=24",
    "--config.cache.fit.max_frames=5",
    "--config.cache.batch=1",
    "--config.data.row.tokens=256",
)


def commands() -> list[list[str]]:
    """The words of each command of the page's section."""
    section = PAGE.read_text().split("## Three commands")[1].split("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def run(words: list[str], folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """A command as it is typed in a clone."""
    programs = {"python": [], "soraflax": ["-m", "soraflax.cli.main"]}
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, *programs[words[0]], *words[1:]],
        cwd=folder,
        env=environment
        | {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with `raw`, real clips among hostile files, and what a clone has."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(CLIPS, folder / "raw")
    hostile.write(folder / "raw")
    real = (CLIPS / "captions.jsonl").read_bytes()
    (folder / "raw" / "captions.jsonl").write_bytes(hostile.captions() + real)
    (folder / "soraflax").symlink_to(ROOT / "soraflax")
    return folder


def test_raw_files_become_a_dataset_a_page_and_a_training_run(
    clone: pathlib.Path,
) -> None:
    prepare, inspect, train = commands()
    said = run(prepare, clone).stdout
    assert "rejected by step" in said and "failed: audio_only.mp4" in said
    report = {
        line["input"].partition("#")[0]: line
        for line in records.read_report(clone / "DATASET")
    }
    assert {path.name for path in CLIPS.iterdir()} - {"captions.jsonl"} <= set(report)
    failed = {n for n, line in report.items() if line["outcome"] == "failed"}
    unread = {n for n, (_, e) in hostile.files().items() if e.outcome == "failed"}
    assert unread | {"gone.mp4"} <= failed and not failed & set(os.listdir(CLIPS))

    assert "look at" in run(inspect, clone).stdout
    page = (clone / "DATASET.report" / "index.html").read_text()
    facts = json.loads((clone / "DATASET.report" / "report.json").read_text())
    assert all(name in page for name in unread)
    assert sum(facts["outcomes"].values()) == len(
        records.read_report(clone / "DATASET")
    )

    told = run([*train, *SHORT], clone).stderr
    assert "failed: audio_only.mp4" in told and "resized:" in told
    lines = [line for line in metrics.read(clone / "VIDEO") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[-1]["epochs/latents"] > 0
    assert (clone / "VIDEO" / "model" / "params.safetensors").exists()
