"""The model of the package: found without being named, whole, and not too large."""

import pytest

import soraflax
from soraflax.pretrained import models, shipped
from tests.generation import tiny


def test_a_build_without_one_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "none")
    says = r"no model of its own: name the folder .*--checkpoint DIR, soraflax.load"
    with pytest.raises(FileNotFoundError, match=says):
        soraflax.load()
    assert shipped.or_given("video").name == "video"


def test_it_is_loaded_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tiny.save(tmp_path) / "model")
    assert soraflax.load().generator.model.digest == tiny.model().digest
    assert shipped.card(shipped.FOLDER) is None
    (shipped.FOLDER / shipped.CARD).write_text("# A model")
    assert shipped.card(shipped.FOLDER) == shipped.FOLDER / "card.md"


def test_what_is_shipped_loads_fits_and_has_a_card():
    if not shipped.FOLDER.exists():
        with pytest.raises(FileNotFoundError, match="has no model of its own"):
            shipped.folder()
        return
    model = models.load_video_model(shipped.folder())
    assert model.config.autoencoder == model.autoencoder.encoder_digest
    assert shipped.packed_bytes(shipped.folder()) <= shipped.MAX_BYTES
    assert "## Figures" in (shipped.folder() / shipped.CARD).read_text()
