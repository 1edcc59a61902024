"""`soraflax serve`: what it refuses, and how it says what is missing."""

import builtins

import pytest

from soraflax.cli import main


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--queue -1", "--queue -1: use 0 or more"),
        ("--port 70000", "--port 70000: use 0 to 65535"),
        ("--max-upload 0", "use a number above 0"),
        ("--size 96", "not WIDTHxHEIGHT"),
    ],
)
def test_bad_options_are_one_line(capsys, words, says):
    try:
        status = main.main(["serve", "--checkpoint", "none", *words.split()])
    except SystemExit as stop:
        status = stop.code
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 2 and says in line


def test_without_gradio_one_line_says_what_to_install(capsys, monkeypatch):
    find = builtins.__import__

    def without(name, *rest, **more):
        if name.partition(".")[0] == "gradio":
            raise ModuleNotFoundError("No module named 'gradio'", name="gradio")
        return find(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(__import__("sys").modules, "soraflax.serving.page", False)
    assert main.main(["serve", "--checkpoint", "none"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == ("soraflax serve: gradio not installed: pip install 'soraflax[ui]'")
