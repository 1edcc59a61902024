"""The shared parser: one line on bad input, defaults in the help, exit statuses."""

import argparse
import errno
import gc
import os
import signal
import subprocess
import sys
import time

import jax
import pytest

from soraflax.cli import parser as cli


def example():
    parser = cli.Parser(
        prog="example", description="First.\n\n    kept as it is\n\nLast."
    )
    parser.add_argument("clip", help="a clip")
    parser.add_argument("prompt", nargs="?", default="", help="a text")
    parser.add_argument("--size", type=cli.size, default=(96, 64), help="pixels")
    parser.add_argument("--fps", type=cli.positive_float, help="default: the clip's")
    parser.add_argument(
        "--share", type=cli.fraction, default=0.5, help="50% or so".replace("%", "%%")
    )
    return parser


def test_help_shows_defaults_as_they_are_typed():
    text = example().format_help()
    assert "(default: 96x64)" in text and "(default: 0.5)" in text
    assert text.count("default") == 3
    assert "\n    kept as it is\n" in text


@pytest.mark.parametrize("words", [["a", "b", "--fps=2"], ["a", "--fps=2", "b"]])
def test_an_optional_positional_stands_anywhere(words):
    assert example().parse_args(words).prompt == "b"


def test_overrides_take_what_is_unknown():
    parser = example()
    parser.overrides = "overrides"
    parsed = parser.parse_args(
        ["a", "--config.data.path=x", "--fps=2", "--config.n", "3"]
    )
    assert parsed.overrides == ["--config.data.path=x", "--config.n", "3"]


@pytest.mark.parametrize(
    ("convert", "text", "says"),
    [
        (cli.size, "96", "96x64"),
        (cli.positive_int, "0", "use 1 or more"),
        (cli.int_up_to(5), "6", "use 5 or less"),
        (cli.finite_float, "nan", "finite"),
        (cli.non_negative_float, "-1", "use 0 or more"),
        (cli.positive_float, "0", "above 0"),
        (cli.fraction, "1.5", "use 1"),
        (cli.interval, "0.9,0.1", "LOW <= HIGH"),
    ],
)
def test_types_name_the_nearest_legal_value(convert, text, says):
    with pytest.raises(argparse.ArgumentTypeError, match=says):
        convert(text)


def raises(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("two\nlines"), 2, "example: two lines"),
        (ValueError("\x1b[31m\udc80 é 😀"), 2, r"example: \x1b[31m\udc80 é 😀"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "a"),
            2,
            "example: a: no such file",
        ),
        (
            OSError(errno.EXDEV, "Another disk", "a", None, "b"),
            2,
            "example: a to b: another disk",
        ),
        (OSError(errno.ENOSPC, "No space left"), 2, "example: no space left"),
        (FileNotFoundError("a: no model"), 2, "example: a: no model"),
        (KeyboardInterrupt(), 130, "example: stopped; nothing was written"),
        (KeyboardInterrupt("a.mp4 is whole"), 130, "example: stopped; a.mp4 is whole"),
    ],
)
def test_what_goes_wrong_is_one_line(capsys, error, status, line):
    assert cli.run_command("example", raises(error)) == status
    assert capsys.readouterr().err == f"{line}\n"


def terminated():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def test_sigterm_stops_a_command_as_ctrl_c_does(capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert cli.run_command("example", terminated, interrupted="it goes on") == 130
    assert capsys.readouterr().err == "example: stopped; it goes on\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_stays_with_who_has_it(monkeypatch):
    """A handler of the caller's, or JAX's preemption service of several processes."""
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("own"))
    assert cli.run_command("example", lambda: os.kill(os.getpid(), signal.SIGTERM)) == 0
    signal.signal(signal.SIGTERM, before)
    assert seen == ["own"]
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    handlers = []
    run = lambda: handlers.append(signal.getsignal(signal.SIGTERM))  # noqa: E731
    assert cli.run_command("example", run) == 0
    assert handlers == [before]


def test_all_that_is_missing_is_named_at_once(capsys, monkeypatch):
    for name in ("tqdm", "sentencepiece"):
        monkeypatch.setitem(sys.modules, name, None)
    line = "example: sentencepiece, tqdm not installed: pip install 'soraflax[media]'\n"

    def run():
        import tqdm  # noqa: F401

    assert cli.run_command("example", run) == 2
    assert capsys.readouterr().err == line


def test_a_reader_that_goes_away_is_no_error():
    """`command | head -1`, in a process of its own."""
    program = (
        "import sys; from soraflax.cli import parser as cli\n"
        "run = lambda: [print('line ' * 100) for _ in range(10_000)]\n"
        "sys.exit(cli.run_command('example', run))"
    )
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 141


def test_garbage_is_looked_for_as_before_once_a_command_is_done():
    before, seen = gc.get_threshold(), []
    cli.run_command("example", lambda: seen.append(gc.get_threshold()))
    assert seen == [(100 * before[0], *before[1:])]
    assert gc.get_threshold() == before
