"""The page and the picture: everything is there, and nothing is markup."""

import html.parser

import numpy as np
import pytest

from data_pipelines.inspection import facts, page


def some_facts(**changes: object) -> dict:
    return {
        "dataset": "data <b>&",
        "splits": {"train": 3},
        "outcomes": {"kept": 3, "failed": 1},
        "bytes": 2**20,
        "hours": 0.5,
        "values": {"duration (s)": [1.0, 2.0, 4.0], "frame rate": [8.0, 8.0, 8.0]},
        "sizes": {"64x64": 2, "96x64": 1},
        "captions": {"short": {"lengths": [2, 3], "words": {"red": 3, "<i>": 1}}},
        "packing": {
            "row": {"tokens": 64},
            "max_tokens": 32,
            "rows": 2,
            "efficiency": 0.9,
            "clips a row": 1.5,
            "tokens a clip": [8, 8, 16],
        },
        "rejected": {"probe: truncated": 1},
        "rejections": [
            {
                "input": "<script>x</script>",
                "outcome": "failed",
                "reason": "a\x1b[2J\nb",
            }
        ],
        **changes,
    }


PICTURE = facts.Picture("<img src=x>", "8x8", np.zeros((8, 8, 3), np.uint8))
BROKEN = facts.Picture("gone.mp4", "truncated", None)


def test_names_are_no_markup() -> None:
    text = page.write_html(some_facts(), [PICTURE, BROKEN], rejected=[PICTURE])
    tags = []

    class Tags(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            tags.append(tag)

    Tags().feed(text)
    assert "script" not in tags and "b" not in tags and "i" not in tags
    assert tags.count("img") == len(page.charts(some_facts())) + 2
    assert "\x1b" not in text and "http" not in text
    assert "data &lt;b&gt;&amp;" in text and "truncated" in text


def test_the_picture_grows_with_what_it_shows() -> None:
    few = page.draw_page(some_facts(), [PICTURE], rejected=[])
    many = page.draw_page(some_facts(), [PICTURE] * 20, rejected=[BROKEN] * 9)
    assert few.width == many.width and many.height > few.height
    assert len(np.unique(np.asarray(few))) > 10


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [1, 5, 9], [1e-6, 1e6]])
def test_a_histogram_of_anything(values: list[float]) -> None:
    drawn = np.asarray(page.histogram("x", values))
    bars = (drawn == np.array([0x2F, 0x6F, 0xD6])).all(axis=-1)
    assert bars.any()


def test_no_full_row_is_said() -> None:
    found = some_facts()
    found["packing"] |= {"efficiency": None}
    assert "too few clips to fill a row" in page.headline(found)[-1]
