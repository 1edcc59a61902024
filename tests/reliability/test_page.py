"""Every test that RELIABILITY.md names is there."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


def test_what_the_page_names_exists() -> None:
    text = (ROOT / "RELIABILITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 20
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"
