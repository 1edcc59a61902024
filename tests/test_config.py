"""Configuration: what is refused, and how it says so."""

import dataclasses
from typing import Any, Literal

import pytest
from ml_collections import config_dict

from soraflax import config


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int = 8
    patch: tuple[int, int, int] = (1, 2, 2)
    stages: tuple[int, ...] = (1,)
    rate: float = 0.1
    kind: Literal["full", "none"] = "full"

    def __post_init__(self) -> None:
        if self.width % 2:
            raise ValueError(f"width {self.width}: use {self.width + 1}")


@dataclasses.dataclass(frozen=True)
class Outer:
    steps: int
    model: Inner = Inner()
    text: Inner | None = None
    name: str = ""
    flag: bool = False
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)


def test_round_trip() -> None:
    made = Outer(
        steps=3, model=Inner(stages=(1, 2)), text=Inner(width=4), sizes={"a": 1}
    )
    assert config.to_dataclass(config.to_dict(made), Outer) == made
    as_config_dict = config_dict.ConfigDict(config.to_dict(made))
    assert config.to_dataclass(as_config_dict, Outer) == made


def test_lists_become_tuples_and_integers_floats() -> None:
    made = config.to_dataclass({"stages": [1, 2], "rate": 1}, Inner)
    assert made.stages == (1, 2)
    assert isinstance(made.rate, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 1}, "config.step: unknown key; did you mean 'steps'?"),
        ({}, "config.steps: missing"),
        (
            {"steps": 1, "model": {"widht": 2}},
            "config.model.widht: unknown key; did you mean 'width'?",
        ),
        (
            {"steps": 1, "text": {"zzz": 2}},
            "config.text.zzz: unknown key; known: kind, patch, rate, stages, width",
        ),
        ({"steps": "1"}, "config.steps: expected int, got '1'"),
        ({"steps": True}, "config.steps: expected int, got True"),
        ({"steps": 1, "flag": 1}, "config.flag: expected bool, got 1"),
        ({"steps": 1, "model": 3}, "config.model: expected a group of keys, got 3"),
        ({"steps": 1, "model": {"width": 3}}, "config.model: width 3: use 4"),
        (
            {"steps": 1, "model": {"patch": (1, 2)}},
            "config.model.patch: expected 3 values, got 2",
        ),
        (
            {"steps": 1, "model": {"kind": "ful"}},
            "config.model.kind: 'ful' is not legal; did you mean 'full'?",
        ),
        ({"steps": 1, "sizes": {"a": "b"}}, "config.sizes.a: expected int, got 'b'"),
    ],
)
def test_refusals_are_one_line_with_the_full_path(values: Any, message: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.to_dataclass(values, Outer)
    assert str(caught.value) == message


def test_digest_depends_on_values_alone() -> None:
    a = config.digest({"x": 1, "y": (1, 2)})
    assert a == config.digest({"y": [1, 2], "x": 1})
    assert a != config.digest({"x": 1, "y": (1, 3)})


def test_first_difference_names_the_key() -> None:
    a = {"model": {"width": 8, "depth": 2}, "path": "a"}
    b = {"model": {"width": 8, "depth": 3}, "path": "b"}
    assert config.first_difference(a, a) is None
    assert config.first_difference(a, b) == ("model.depth", 2, 3)
    assert config.first_difference(a, b, ignore=("model", "path")) is None
    assert config.first_difference({"x": 1}, {}) == ("x", 1, "absent")
