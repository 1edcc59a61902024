"""What several files of tests need."""

import shutil
from pathlib import Path

import pytest

CLIPS = Path(__file__).parents[1] / "data" / "clips"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with two good clips, one of them in a subfolder."""
    root = tmp_path / "clips"
    (root / "sub").mkdir(parents=True)
    shutil.copy(CLIPS / "shapes.png", root / "a.png")
    shutil.copy(CLIPS / "av1_video.mkv", root / "sub" / "b.MKV")
    return root
