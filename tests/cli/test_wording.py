"""Prompts are expanded and filtered, and the record says so."""

import json
import shlex

import pytest

from soraflax.cli import main
from soraflax.generation import prompt_expander
from soraflax.pretrained import expanders, models, shipped

SIZE = "--size 32x16 --frames 5 --out out.mkv"


def told(capsys, line):
    try:
        status = main.main(line)
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr()
    return status, said.out.splitlines(), said.err.splitlines()


def test_an_expanded_prompt_is_shown_and_kept(run, place):
    status, _, lines = run(f"generate 'a red ball' --expand {SIZE}")
    assert status == 0
    (line,) = [line for line in lines if "expanded: " in line]
    longer = line.partition("expanded: ")[2]
    assert "red circle" in longer
    record = json.loads((place / "out.mkv.json").read_text())
    assert record["prompt"] == longer
    assert record["options"]["expansion"] == {
        "expander": "template",
        "prompt": "a red ball",
    }
    assert "--expand=template" in record["command"]
    assert "'a red ball'" in record["command"]


@pytest.mark.parametrize(
    ("prompt", "who"),
    [
        ("red", {"expander": "learned"}),
        (
            "a red cat",
            {
                "expander": "template",
                "asked": "learned",
                "reason": "'a red cat' has words that are not understood",
            },
        ),
    ],
)
def test_the_record_names_who_expanded_the_prompt(run, place, prompt, who):
    status, _, _ = run(f"generate '{prompt}' --expand learned {SIZE}")
    assert status == 0
    said = json.loads((place / "out.mkv.json").read_text())["options"]["expansion"]
    digest = said.pop("digest", "")
    assert said == {"prompt": prompt} | who
    shipped_digest = expanders.load_expander().digest
    assert digest == (shipped_digest if who["expander"] == "learned" else "")


def test_each_command_of_several_videos_makes_its_own_again(run, place):
    (place / "seeded.py").write_text(
        "def longer(prompt, *, seed):\n    return f'{prompt} {seed}'\n"
    )
    line = "generate circle --expand seeded:longer --num-videos 2 --seed 4"
    assert run(f"{line} {SIZE}")[0] == 0
    first, second = (
        json.loads((place / f"out-{n}.mkv.json").read_text()) for n in range(2)
    )
    assert first["prompt"] == second["prompt"] == "circle 4"
    for record in (first, second):
        words = shlex.join(shlex.split(record["command"])[1:])
        assert run(f"{words} --out again.mkv")[0] == 0
        again = json.loads((place / "again.mkv.json").read_text())
        assert (again["prompt"], again["seed"]) == (record["prompt"], record["seed"])


def test_a_refusal_is_one_line_and_a_status_of_its_own(run, place):
    status, out, lines = run(f"generate 'a Nude circle' --guard words {SIZE}")
    assert (status, out) == (3, [])
    assert lines == ["soraflax generate: prompt refused: its text holds 'nude'"]
    (place / "own.py").write_text(
        "def no_results(text, video):\n    return 'none today' if video else None\n"
        "def longer(prompt, *, seed):\n    return prompt + ' nude'\n"
    )
    status, out, lines = run(f"generate circle --guard own:no_results {SIZE}")
    assert (status, out) == (3, [])
    assert lines[-1] == "soraflax generate: result refused: none today"
    assert not (place / "out.mkv").exists()
    assert run(f"generate circle --guard own:no_results --preview {SIZE}")[0] == 3
    assert not [*place.glob("out.mkv*")]
    status, out, lines = run(
        f"generate circle --guard words --expand own:longer {SIZE}"
    )
    assert status == 3 and not (place / "out.mkv").exists()


def test_unknown_expanders_and_filters_are_one_line(run):
    for line, message in (
        (
            "--expand nothing",
            "'nothing': known: learned, template, or give MODULE:FUNCTION",
        ),
        ("--guard word", "'word': did you mean 'words'?"),
        ("--guard none.txt", "none.txt"),
    ):
        status, _, lines = run(f"generate circle {line} {SIZE}")
        assert status == 2 and len(lines) == 1 and message in lines[0], lines
    status, _, (line,) = run(f"generate ' ' --expand {SIZE}")
    assert status == 2 and "the prompt is empty" in line


def test_expand_prints_prompts(capsys):
    status, lines, _ = told(capsys, ["expand", "a red ball", "--count", "3"])
    assert status == 0 and len(set(lines)) == 3
    assert all("red circle" in line for line in lines)
    known = models.load_video_model(shipped.folder()).config.trained_on
    assert known is not None and {*" ".join(lines).split()} <= {*known.words}
    status, _, (line,) = told(capsys, ["expand", "a ball", "--checkpoint", "gone"])
    assert status == 2 and "gone" in line
    status, (line,), _ = told(capsys, ["expand", "a red ball", "--image"])
    assert not {"moves", "stays"} & {*line.split()}
    for nothing in ("", " ", "\u202e"):
        status, _, (line,) = told(capsys, ["expand", nothing])
        assert status == 2 and "the prompt is empty" in line


def test_what_of_a_prompt_cannot_be_read_is_said(capsys, run, place):
    """Bytes that are no UTF-8 come as surrogates."""
    note = "prompt: 1 bytes or surrogates that are no text became U+FFFD"
    status, lines, said = told(capsys, ["expand", "caf\udce9, a ball", "--count", "2"])
    assert (status, said) == (0, [f"soraflax expand: {note}"])
    assert len(lines) == 2 and all("caf\ufffd" in line for line in lines)
    status, _, said = run(f"generate 'caf\udce9, a ball' --expand {SIZE}")
    assert status == 0 and f"soraflax generate: {note}" in said
    assert note in json.loads((place / "out.mkv.json").read_text())["notes"]


def test_expand_takes_a_trained_expander(capsys, tmp_path, monkeypatch):
    def expander(folder, *, template):
        assert folder == str(tmp_path)
        return lambda prompt, *, seed: f"{prompt} {seed} {template.moving}"

    (tmp_path / "config.json").write_text(
        json.dumps({"config": {"kind": expanders.KIND}, "digest": ""})
    )
    monkeypatch.setattr(prompt_expander.PromptExpander, "load", expander)
    for option in ("--checkpoint", "--expander"):
        line = ["expand", "red", option, str(tmp_path), "--image", "--seed", "2"]
        assert told(capsys, line)[:2] == (0, ["red 2 False"])
    both = [*line, "--checkpoint", str(tmp_path)]
    status, _, (said,) = told(capsys, both)
    assert status == 2 and "is an expander, and --expander" in said


@pytest.mark.parametrize("as_json", [False, True])
def test_verify_says_how_a_file_was_made(capsys, clip, run, place, as_json):
    run(f"generate circle {SIZE}")
    words = ["verify", "out.mkv", *["--json"] * as_json]
    status, lines, _ = told(capsys, words)
    assert status == 0
    if as_json:
        assert json.loads(lines[0])["outcome"] == "generated"
        return
    assert lines[0].startswith("out.mkv: generated by soraflax")
    clip("plain.mkv", 5)
    assert "no record" in told(capsys, ["verify", "plain.mkv"])[1][0]
    status, _, (line,) = told(capsys, ["verify", "none.mkv"])
    assert status == 2 and "none.mkv: no such file" in line
