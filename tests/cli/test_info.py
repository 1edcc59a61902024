"""`soraflax info`, of the shipped model and of any other."""

import json

from soraflax.cli import main
from soraflax.pretrained import io as model_io
from soraflax.pretrained import rounding, shipped
from tests.generation import tiny


def info(capsys, *words):
    status = main.main(["info", *map(str, words)])
    told = capsys.readouterr()
    return status, (json.loads(told.out) if status == 0 else {}), told.err


def test_without_an_argument_it_is_of_the_shipped_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "bodies")
    status, _, says = info(capsys)
    assert status == 2 and len(says.splitlines()) == 1 and "no model of its" in says
    source = tiny.save(tmp_path)
    rounding.save_rounded(source, shipped.FOLDER, files={shipped.CARD: b"# Card"})
    status, facts, _ = info(capsys)
    assert status == 0
    assert facts["card"] == str(tmp_path / "bodies" / "card.md")
    assert facts["digest"] == model_io.model_digest(tmp_path / "bodies")
    assert facts["config"]["kind"] == "video"
    assert facts["bytes"] < 0.65 * info(capsys, source)[1]["bytes"]


def test_of_any_model(tmp_path, capsys):
    _, facts, _ = info(capsys, tiny.save(tmp_path).parent / "ae")
    assert facts["card"] is None and facts["config"]["kind"] == "autoencoder"
    assert facts["digest"] == tiny.model().autoencoder.digest
