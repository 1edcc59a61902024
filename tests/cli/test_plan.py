"""`soraflax plan` without the TPU compiler: what is wrong is one line."""

import importlib.util
import pathlib

import pytest

from experiments import configs
from soraflax.cli import main

CONFIG = f"{configs.DIRECTORY}/wan2_1_t2v_14b.py"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--topology", "v5q:2x2x2"], "did you mean 'v5p'"),
        (["--topology", "v5p:3x4x4"], "nearest: v5p:2x4x4"),
        (["--topology", "v5p:4x4x4", "--clip", "200000"], "use rows of 200064 or"),
        (["--topology", "v5p:4x4x4", "--rows", "0"], "0 is too small"),
        (["--topology", "v5p:4x4x4"], "pip install 'soraflax[plan]'"),
        (["--topology", "v5p:4x4x4", "--json", "no/p.json"], "no directory no;"),
        (["--topology", "v5p:4x4x4", "--json", "tests"], "is a directory"),
        ([], "--topology"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    says: str,
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "libtpu" else find(name, *rest),
    )
    try:
        status = main.main(["plan", f"--config={CONFIG}", *words])
    except SystemExit as stop:
        status = stop.code
    output = capsys.readouterr()
    assert (status, output.out) == (2, "")
    assert len(output.err.strip().splitlines()) == 1
    assert says in output.err


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("wan2_1_t2v_14.py", "did you mean 'wan2_1_t2v_14b'"),
        ("wan2_1_t2v_14b.py:v5p-51", "did you mean 'v5p-512'"),
        ("autoencoder_small.py", "only 'video' has a plan"),
    ],
)
def test_configs_that_have_no_plan(
    capsys: pytest.CaptureFixture, config: str, says: str
):
    path = pathlib.Path(configs.DIRECTORY) / config
    status = main.main(["plan", f"--config={path}", "--topology", "v5p:4x4x4"])
    assert status == 2
    assert says in capsys.readouterr().err


def test_a_bare_name_is_a_shipped_config_in_any_directory(
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
):
    monkeypatch.chdir(tmp_path)
    words = ["--topology", "v5p:4x4x4"]
    assert main.main(["plan", "--config=wan2_1_t2v_14b:v5p-51", *words]) == 2
    assert "did you mean 'v5p-512'" in capsys.readouterr().err
    assert main.main(["plan", "--config=wan2_1_t2v_14", *words]) == 2
    assert "did you mean 'wan2_1_t2v_14b'" in capsys.readouterr().err
