"""`soraflax convert`: what it calls and says, and what it refuses."""

import pytest

from soraflax import cli
from soraflax.weights import wan
from tests.generation import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny.save(folder)
    return folder


def run(capsys, *words):
    try:
        status = cli.main(["convert", *map(str, words)])
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr()


def test_from_wan(capsys, models, tmp_path, monkeypatch):
    calls = []

    def convert(weights, out, *, family):
        calls.append((weights.name, family))
        tiny.save(out.parent)

    monkeypatch.setattr(wan, "convert_autoencoder", convert)
    words = ["--from", "wan2.1", "--weights", "vae", "--out", tmp_path / "ae"]
    status, output = run(capsys, *words)
    assert status == 0 and calls == [("vae", "wan2.1")]
    assert len(output.out.splitlines()) == 1
    assert "parameters, no mean and standard deviation of the 4" in output.out


@pytest.mark.parametrize("which", ["ae", "video"])
def test_to_wan(capsys, models, tmp_path, monkeypatch, which):
    calls = []

    def export(checkpoint, out, *, family):
        calls.append((checkpoint, out, family))

    monkeypatch.setattr(wan, "export_autoencoder", export)
    out = tmp_path / "vae"
    words = ["--to", "wan2.2", "--checkpoint", models / which, "--out", out]
    status, output = run(capsys, *words)
    inside = {"ae": "ae/model", "video": "video/model/autoencoder"}[which]
    assert status == 0 and calls == [(models / inside, out, "wan2.2")]
    assert output.out.startswith(f"{out}: wan2.2, ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "one of the arguments --from --to is required"),
        (["--from", "wan2.1", "--to", "wan2.1"], "not allowed with"),
        (["--from", "wan3"], "invalid choice: 'wan3'"),
        (["--from", "wan2.1"], "--from needs --weights DIR"),
        (["--to", "wan2.1"], "--to needs --checkpoint DIR"),
        (["--from", "wan2.1", "--weights", "a", "--checkpoint", "b"], "leave --check"),
        (["--to", "wan2.1", "--weights", "a", "--checkpoint", "b"], "leave --weights"),
        (["--to", "wan2.1", "--checkpoint", "nowhere"], "nowhere: no such directory"),
        (["--from", "wan2.1", "--weights", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    status, output = run(capsys, *words, "--out", "new")
    assert status == 2 and output.out == ""
    assert len(output.err.strip().splitlines()) == 1
    assert says in output.err
    assert list(tmp_path.iterdir()) == []
