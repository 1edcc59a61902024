"""What README.md says about the parts as a library runs, in the tiny shapes."""

import pathlib
import re

import flax.nnx
import numpy as np
import pytest

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


@pytest.fixture(scope="module")
def names():
    """What the snippet of the packed transformer defines."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (snippet,) = (block for block in blocks if "dit.VARIANTS[" in block)
    assert 'VARIANTS["small"]' in snippet
    names = {}
    exec(snippet.replace('VARIANTS["small"]', 'VARIANTS["tiny"]'), names)
    return names


def test_the_packed_transformer_in_any_program(names):
    row = names["row"]
    assert names["prediction"].shape == row.tokens.shape
    assert np.isfinite(names["prediction"]).all()


def test_wrapped_for_nnx(names):
    (line,) = re.findall(r"`(flax\.nnx\.bridge\.ToNNX\(.*?)`", README, re.DOTALL)
    wrapped = eval(line, names | {"flax": flax, "nnx": flax.nnx})
    prediction = wrapped(names["row"])
    assert prediction.shape == names["row"].tokens.shape
    assert np.isfinite(prediction).all()
