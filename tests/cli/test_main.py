"""The command line: what goes wrong is one line and exit status 2."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

import soraflax
from soraflax.cli import main
from soraflax.pretrained import shipped
from tests.cli import conftest


def run(capsys, *words):
    try:
        status = main.main(list(words))
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["generate", "a", "--checkpoint", "nowhere"], "nowhere"),
        (["generate", "a", "--checkpoint", "x", "--size", "96"], "96x64"),
        (["generate", "a", "--checkpoint", "x", "--frames", "0"], "1 or more"),
        (["generate", "a"], "no model of its own: name the folder"),
        (["info"], "no model of its own: name the folder"),
        (["info", "nowhere"], "nowhere"),
        (["paint"], "invalid choice"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, words, says):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "none")
    status, output = run(capsys, *words)
    assert status == 2
    assert output.out == ""
    assert len(output.err.strip().splitlines()) == 1
    assert says in output.err


def test_a_missing_extra_is_named(tmp_path):
    """In a process of its own, where it is not imported yet."""
    (tmp_path / "a.mp4").write_text("no video")
    words = ["reconstruct", "a.mp4", "--checkpoint", "x", "--out", "b.mp4"]
    program = f"""
import sys
from soraflax.cli import main
sys.modules["av"] = None
sys.exit(main.main({words}))
"""
    root = str(pathlib.Path(main.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": root},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "soraflax reconstruct: video files need PyAV: pip install 'soraflax[media]'\n"
    )


@pytest.mark.parametrize("name", conftest.parsers()[1])
def test_help_has_an_example_that_parses(capsys, name):
    status, output = run(capsys, name, "--help")
    assert status == 0
    text = " ".join(output.out.split())
    for line in re.split(r"examples?: ", text)[1].split("; "):
        words = shlex.split(line)
        assert words[:2] == ["soraflax", name]
        assert conftest.parsers()[0].parse_args(words[1:]).command == name


@pytest.mark.parametrize("name", conftest.parsers()[1])
def test_help_says_every_default(name):
    """In words, where there is none."""
    command = conftest.parsers()[1][name]
    formatter = command._get_formatter()
    for action in command._actions:
        if action.dest == "help":
            continue
        assert action.help, f"{action.dest} has no help"
        flag = action.nargs == 0
        optional = action.option_strings or action.nargs == "?"
        if optional and not (action.required or flag or name == "convert"):
            assert "(default: " in formatter._expand_help(action), action.dest


def test_the_version_is_said(capsys):
    status, output = run(capsys, "--version")
    assert (status, output.out) == (0, f"soraflax {soraflax.__version__}\n")


def test_every_command_is_in_the_help(capsys):
    status, output = run(capsys, "--help")
    assert status == 0
    listed = {line.split()[0] for line in output.out.splitlines() if line.strip()}
    assert set(conftest.parsers()[1]) <= listed


@pytest.mark.parametrize(
    "words", [["--help"], ["loop", "--help"], ["edit"], ["loop", "a", "--steps", "x"]]
)
def test_parsing_and_help_import_nothing_slow(words):
    """In a process of its own, as the others have imported everything."""
    program = (
        "import sys; from soraflax.cli import main as cli\n"
        f"try: cli.main({words!r})\n"
        "except SystemExit: pass\n"
        "slow = {'jax', 'flax', 'av', 'numpy', 'PIL', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(str(slow) if slow else 0)"
    )
    root = str(pathlib.Path(main.__file__).parents[2])
    env = os.environ | {"PYTHONPATH": root}
    found = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
