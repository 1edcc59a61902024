"""Captions of a folder in three forms, and what people's files really hold."""

import json
import unicodedata
from pathlib import Path

import pytest

from data_pipelines import prepare, records
from data_pipelines.builders import captions, files
from tests.data_pipelines.builders import test_archives


def _read(root: Path, path: Path | None = None) -> captions.Captions:
    return captions.read_captions(files.find_files(root), path)


def _by_name(found: captions.Captions) -> dict[str, dict[str, str]]:
    return {name: dict(texts) for name, texts in found.texts.items()}


def _reasons(found: captions.Captions) -> dict[str, str]:
    return {line["input"]: line["reason"] for line in found.unused}


def _csv(root: Path, *lines: str) -> captions.Captions:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (root / name).write_bytes(b"")
    (root / "captions.csv").write_text("\n".join(lines))
    return _read(root)


def test_captions_from_jsonl(clips: Path) -> None:
    lines = [
        {"file": "a.png", "caption": " a\n  circle ", "detailed": "", "likes": 3},
        {"file": "sub/b.MKV", "caption": "bars", "own words": "a test card"},
    ]
    (clips / "captions.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    found = _read(clips)
    assert _by_name(found) == {
        "a.png": {"caption": "a circle"},
        "sub/b.MKV": {"caption": "bars", "own words": "a test card"},
    }
    assert not found.unused


def test_captions_from_csv(clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text(
        '\ufefffile,caption,detailed\na.png,"a circle, red",\nsub/b.MKV,bars,"a\nb"\n',
        encoding="utf-8",
    )
    assert _by_name(_read(clips, path)) == {
        "a.png": {"caption": "a circle, red"},
        "sub/b.MKV": {"caption": "bars", "detailed": "a b"},
    }


@pytest.mark.parametrize("beside", [True, False])
def test_captions_from_text_files(clips: Path, tmp_path: Path, beside: bool) -> None:
    texts = clips if beside else tmp_path / "texts"
    (texts / "sub").mkdir(parents=True, exist_ok=True)
    (texts / "a.txt").write_text("a circle\n")
    (texts / "sub" / "b.txt").write_text("bars\n")
    found = _read(clips, None if beside else texts)
    assert _by_name(found) == {
        "a.png": {"caption": "a circle"},
        "sub/b.MKV": {"caption": "bars"},
    }


def test_caption_lines_that_fail_are_named(clips: Path) -> None:
    lines = [
        '{"file": "a.png", "caption": "first"}',
        '{"file": "a.png", "caption": "second"}',
        '{"file": "gone.mp4", "caption": "x"}',
        '{"caption": "x"}',
        "[1]",
        "{not json",
    ]
    (clips / "captions.jsonl").write_text("\n".join(lines))
    found = _read(clips)
    assert _by_name(found) == {"a.png": {"caption": "first"}}
    reasons = {line["input"]: line["reason"] for line in found.unused}
    assert list(reasons) == [f"captions.jsonl:{n}" for n in (2, 3, 4, 5, 6)]
    assert reasons["captions.jsonl:2"] == "file captioned before: a.png"
    assert reasons["captions.jsonl:3"] == "caption names a missing file: gone.mp4"
    assert "without a `file`" in reasons["captions.jsonl:4"]
    assert "not JSON" in reasons["captions.jsonl:6"]


def test_captions_given_by_name_are_found_beside_the_clips(clips: Path) -> None:
    (clips / "words.jsonl").write_text('{"file": "a.png", "caption": "first"}\n')
    found = _read(clips, Path("words.jsonl"))
    assert _by_name(found) == {"a.png": {"caption": "first"}}


def test_captions_that_name_nothing_are_refused(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(records.DatasetError, match=r"no captions\.jsonl"):
        _read(clips)
    with pytest.raises(records.DatasetError, match="no such captions file"):
        _read(clips, tmp_path / "gone.jsonl")
    with pytest.raises(records.DatasetError, match=r"come as \.jsonl, \.csv"):
        _read(clips, tmp_path / "words.xml")
    path = tmp_path / "other.jsonl"
    path.write_text('{"file": "x.mp4", "caption": "x"}\n{"file": "y.mp4"}\n')
    with pytest.raises(records.DatasetError, match=r"none of its 2 lines.*x\.mp4"):
        _read(clips, path)
    path.write_text("")
    with pytest.raises(records.DatasetError, match="none of its 0 lines"):
        _read(clips, path)


def test_a_text_with_commas_and_no_quotes_is_reported(tmp_path: Path) -> None:
    found = _csv(
        tmp_path, "file,caption", "a.mp4,a red circle, moving right", "b.mp4,bars,,"
    )
    assert _by_name(found) == {"b.mp4": {"caption": "bars"}}
    reasons = _reasons(found)
    assert list(reasons) == ["captions.csv:2"]
    assert "3 cells under 2 columns" in reasons["captions.csv:2"]


@pytest.mark.parametrize("text", ['"a circle, moving"', '"a circle"', '"a', '""'])
def test_a_space_before_a_quote_is_reported(text: str, tmp_path: Path) -> None:
    found = _csv(tmp_path, "file, caption", f"a.mp4, {text}", "b.mp4, bars")
    assert _by_name(found) == {"b.mp4": {"caption": "bars"}}
    assert list(_reasons(found)) == ["captions.csv:2"]
    assert "a space before a quote" in _reasons(found)["captions.csv:2"]


def test_a_space_before_a_quote_of_the_header_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        records.DatasetError, match=r"header is.*a space before a quote"
    ):
        _csv(tmp_path, 'file, "caption"', "a.mp4,x")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('a.mp4,"a red circle', "unexpected end of data"),
        ('a.mp4,"a "red" circle"', "expected after"),
        ('a.mp4,"a "', None),
    ],
)
@pytest.mark.parametrize("quoted", ["bars", '"bars, blue"'])
def test_a_quote_that_is_not_closed_takes_no_other_line(
    line: str, reason: str | None, quoted: str, tmp_path: Path
) -> None:
    found = _csv(tmp_path, "file,caption", line, f"b.mp4,{quoted}", "c.mp4,lines")
    assert found.texts["b.mp4"] == {"caption": quoted.strip('"')}
    assert found.texts["c.mp4"] == {"caption": "lines"}
    assert list(_reasons(found)) == ([] if reason is None else ["captions.csv:2"])
    if reason is not None:
        assert "close every quote" in _reasons(found)["captions.csv:2"]


def test_rows_that_span_lines_are_numbered_by_their_first(tmp_path: Path) -> None:
    found = _csv(tmp_path, "file,caption", 'a.mp4,"two', 'lines"', "gone.mp4,x")
    assert _by_name(found) == {"a.mp4": {"caption": "two lines"}}
    assert list(_reasons(found)) == ["captions.csv:4"]


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("name,caption", "no column `file`; columns: name, caption"),
        ("file;caption", "no column `file`; columns: file;caption"),
        ("file,caption,caption", "a column is there twice"),
        ('"file,caption', "its header is not CSV"),
    ],
)
def test_a_header_that_names_no_file_is_refused(
    header: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(records.DatasetError, match=says):
        _csv(tmp_path, header, "a.mp4,x")


def test_texts_are_read_as_prompts_are(clips: Path) -> None:
    """Lone surrogates, control and direction characters; in every form of captions."""
    raw, clean = "smile \ud83d\x07 \u202eleft", "smile \ufffd left"
    escaped = json.dumps({"file": "a.png", "caption": raw})
    (clips / "captions.jsonl").write_text(escaped)
    found = _read(clips)
    assert _by_name(found) == {"a.png": {"caption": clean}}
    assert [note.split(":")[0] for note in found.notes["a.png"]] == ["caption"] * 3
    notes = " ".join(found.notes["a.png"])
    for name in ("surrogates", "U+0007", "U+202E"):
        assert name in notes
    (clips / "captions.jsonl").unlink()
    raw, clean = "a\x07 circle\u202e", "a circle"
    (clips / "captions.csv").write_text(f"file,\u200ecaption\na.png,{raw}\n")
    assert _by_name(_read(clips)) == {"a.png": {"caption": clean}}
    (clips / "captions.csv").unlink()
    (clips / "a.txt").write_text(raw)
    found = _read(clips)
    assert _by_name(found) == {"a.png": {"caption": clean}}
    assert len(found.notes["a.png"]) == 2


def test_a_text_of_nothing_but_controls_is_no_caption(clips: Path) -> None:
    lines = [
        {"file": "a.png", "caption": "\x07"},
        {"file": "sub/b.MKV", "caption": "x"},
    ]
    (clips / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = _read(clips)
    assert _by_name(found) == {"a.png": {}, "sub/b.MKV": {"caption": "x"}}


def test_what_json_and_bytes_can_do_fails_its_line_alone(clips: Path) -> None:
    lines = [
        b'{"file": "a.png", "caption": "x"}',
        b'{"file": "sub/b.MKV", "caption": "caf\xe9"}',
        b"[" * 100_000,
        b'{"file": "sub/b.MKV", "n": ' + b"9" * 5000 + b"}",
        b'{"file": "sub/b.MKV", "caption": "x", "caption": "y"}',
        b'{"file": "a\\ud83d.png", "caption": "x"}',
    ]
    (clips / "captions.jsonl").write_bytes(b"\n".join(lines))
    found = _read(clips)
    assert _by_name(found) == {"a.png": {"caption": "x"}}
    assert list(_reasons(found)) == [f"captions.jsonl:{n}" for n in (2, 3, 4, 5, 6)]
    assert _reasons(found)["captions.jsonl:2"] == "not UTF-8"
    assert "'caption' is there twice" in _reasons(found)["captions.jsonl:5"]


def test_text_files_match_whatever_their_case_and_form(tmp_path: Path) -> None:
    composed = unicodedata.normalize("NFC", "café")
    names = {
        "a.MP4": "a.TXT",
        f"{composed}.mp4": f"{unicodedata.normalize('NFD', composed)}.txt",
        "B.png": "b.txt",
        "both.mp4": "both.txt",
        "both.png": "both.txt",
        "c.mp4": "c.txt",
        "C.png": "C.txt",
    }
    for clip, text in names.items():
        (tmp_path / clip).write_bytes(b"")
        (tmp_path / text).write_text(text)
    found = _read(tmp_path)
    assert _by_name(found) == {clip: {"caption": t} for clip, t in names.items()}
    assert not found.unused


def test_text_files_that_are_not_used_are_named(clips: Path) -> None:
    (clips / "a.txt").write_text("a circle")
    (clips / "A.txt").write_text("another")
    (clips / "none.txt").write_text("x")
    (clips / "sub" / "b.txt").write_bytes(b"caf\xe9")
    found = _read(clips)
    assert _by_name(found) == {"a.png": {"caption": "a circle"}}
    outcomes = {line["input"]: line["outcome"] for line in found.unused}
    assert outcomes == {
        "A.txt": "ignored",
        "none.txt": "ignored",
        "sub/b.txt": "failed",
    }
    (clips / "captions.jsonl").write_text('{"file": "a.png", "caption": "x"}')
    reasons = _reasons(_read(clips))
    assert reasons["a.txt"] == "not read: captions come from captions.jsonl"


def test_captions_of_the_hub(clips: Path) -> None:
    lines = [
        {"file_name": "a.png", "text": "a circle", "fps": "8.0", "id": 3},
        {"file_name": "sub/b.MKV", "prompt": "bars"},
    ]
    (clips / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert _by_name(_read(clips)) == {
        "a.png": {"text": "a circle"},
        "sub/b.MKV": {"prompt": "bars"},
    }


def test_captions_in_parquet(clips: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"file_name": "a.png", "text": "a circle", "likes": 3},
        {"file_name": "gone.mp4", "text": "x", "likes": 4},
    ]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, clips / "metadata.parquet")
    found = _read(clips)
    assert _by_name(found) == {"a.png": {"text": "a circle"}}
    reason = "caption names a missing file: gone.mp4"
    assert _reasons(found) == {"metadata.parquet:2": reason}


def test_a_table_of_open_sora_names_its_clips_by_path(
    clips: Path, tmp_path: Path
) -> None:
    """Absolute paths, and numbers beside the text, which are no captions."""
    (tmp_path / "tables").mkdir()
    path = tmp_path / "tables" / "meta.csv"
    path.write_text(
        "path,text,num_frames,height,width,aspect_ratio,fps\n"
        f'{clips / "a.png"},"a circle, red",1,80,120,0.66,nan\n'
        f"{clips / 'sub' / 'b.MKV'},bars,10,64,64,1.0,25.0\n"
    )
    output = tmp_path / "data"
    info = prepare.prepare_folder(path, output)
    assert info["captions"] == {"text": 2}
    kept = {
        line["input"]: line["notes"]
        for line in records.read_report(output)
        if line["outcome"] == "kept"
    }
    assert set(kept) == {str(clips / "a.png"), str(clips / "sub" / "b.MKV")}
    assert all("lies outside the folder" in notes for notes in kept.values())


def test_captions_from_a_webdataset_tar(clips: Path, tmp_path: Path) -> None:
    members = [
        ("a.txt", b"a circle\n"),
        ("a.json", json.dumps({"detailed": "a red circle", "url": "x"}).encode()),
        ("sub/B.mkv", b"its clip, which lies in the folder"),
        ("sub/B.txt", b"bars"),
        ("gone.txt", b"of nothing"),
        ("bad.json", b"{"),
    ]
    found = _read(clips, test_archives.write_tar(tmp_path / "words.tar", members))
    assert _by_name(found) == {
        "a.png": {"caption": "a circle", "detailed": "a red circle"},
        "sub/b.MKV": {"caption": "bars"},
    }
    reasons = _reasons(found)
    assert reasons["words.tar/gone"] == "captions a missing file"
    assert reasons["words.tar/bad"].startswith("its .json cannot be read")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x1f\x8b" + bytes(600), "a compressed tar: gunzip it"),
        (b"no tar" * 200, "not a tar, or cut off"),
        (bytes(10240), "none of its samples captions a file"),
    ],
)
def test_a_tar_without_captions_is_one_line(
    clips: Path, tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "words.tar").write_bytes(data)
    with pytest.raises(records.DatasetError, match=message) as caught:
        _read(clips, tmp_path / "words.tar")
    assert "\n" not in str(caught.value)
