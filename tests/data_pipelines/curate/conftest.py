"""What several files of tests need."""

from pathlib import Path

import pytest

from tests.data_pipelines.curate import raw_files


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of raw files; not to be written to."""
    return raw_files.write(tmp_path_factory.mktemp("raw") / "files")
