"""The command line: what goes wrong is one line and exit status 2."""

import pytest

from soraflax import cli


def run(capsys, *words):
    try:
        status = cli.main(list(words))
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["generate", "a", "--checkpoint", "nowhere"], "nowhere"),
        (["generate", "a", "--checkpoint", "x", "--size", "96"], "96x64"),
        (["generate", "a", "--checkpoint", "x", "--frames", "0"], "1 or more"),
        (["generate", "a"], "--checkpoint"),
        (["info", "nowhere"], "nowhere"),
        (["paint"], "invalid choice"),
    ],
)
def test_bad_input_is_one_line(capsys, words, says):
    status, output = run(capsys, *words)
    assert status == 2
    assert output.out == ""
    assert len(output.err.strip().splitlines()) == 1
    assert says in output.err


def test_help_has_an_example(capsys):
    status, output = run(capsys, "generate", "--help")
    assert status == 0
    assert "--size 96x64" in output.out
