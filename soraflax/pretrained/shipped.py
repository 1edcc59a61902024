"""The models that come with the package, and their cards.

    soraflax/assets/bodies/  config.json  params.safetensors  vocabulary.model  card.md
                             autoencoder/ config.json  params.safetensors
    soraflax/assets/captioner/  config.json  params.safetensors  vocabulary.model
                             card.md
    soraflax/assets/expander/   the same

`pretrained.models`, `pretrained.captioners` and `pretrained.expanders` define these
files; `python -m experiments.ship` writes the first, `experiments.ship_captioner` the
others.
"""

import os
import pathlib
import zlib

FOLDER = pathlib.Path(__file__).parents[1] / "assets" / "bodies"
CAPTIONER = FOLDER.with_name("captioner")
EXPANDER = FOLDER.with_name("expander")
CARD = "card.md"
MAX_BYTES = 20_000_000  # that all take in a wheel


def folder() -> pathlib.Path:
    """Where the shipped model is.

    Raises:
      FileNotFoundError: this build of the package has none.
    """
    if not (FOLDER / "config.json").is_file():
        raise FileNotFoundError(
            "this build of soraflax has no model of its own: name the folder of a "
            "trained one (--checkpoint DIR, soraflax.load(DIR)), such as that of "
            "`soraflax demo`"
        )
    return FOLDER


def or_given(directory: str | os.PathLike[str] | None) -> pathlib.Path:
    """`directory`, or where that is None the shipped model's; errors as of `folder`."""
    return folder() if directory is None else pathlib.Path(directory)


def captioner_or_given(directory: str | os.PathLike[str] | None) -> pathlib.Path:
    """`directory`, or where that is None the shipped captioner's.

    Raises:
      FileNotFoundError: this build of the package has none.
    """
    if directory is not None:
        return pathlib.Path(directory)
    if not (CAPTIONER / "config.json").is_file():
        raise FileNotFoundError(
            "this build of soraflax has no captioner of its own: name the folder of a "
            "trained one (`soraflax train --config=captioner_small`)"
        )
    return CAPTIONER


def expander_or_given(directory: str | os.PathLike[str] | None) -> pathlib.Path:
    """`directory`, or where that is None the shipped expander's.

    Raises:
      FileNotFoundError: this build of the package has none.
    """
    if directory is not None:
        return pathlib.Path(directory)
    if not (EXPANDER / "config.json").is_file():
        raise FileNotFoundError(
            "this build of soraflax has no expander of its own: name the folder of a "
            "trained one (`soraflax train --config=expander_small`)"
        )
    return EXPANDER


def packed_bytes(directory: pathlib.Path) -> int:
    """Bytes that a directory's files take in a wheel, which deflates each."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return sum(len(zlib.compress(path.read_bytes())) for path in files)


def card(directory: pathlib.Path) -> pathlib.Path | None:
    """The card of the model in a directory; None where it has none."""
    path = directory / CARD
    return path if path.is_file() else None
