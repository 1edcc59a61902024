"""The page of formats is what reading does."""

import pathlib

from tests.media import matrix

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "formats.md"


def test_the_page_is_what_its_command_writes():
    assert PAGE.read_text(encoding="utf-8") == matrix.page()
