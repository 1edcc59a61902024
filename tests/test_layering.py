"""The floors of the house, and its budgets, read from the source itself."""

import ast
import io
import pathlib
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = ("soraflax", "data_pipelines", "experiments")

# Lower never imports higher. The longest prefix of a module's name decides.
FLOORS = {
    "soraflax": 0,
    "soraflax.ops": 0,
    "soraflax.diffusion": 0,
    "soraflax.flops": 0,
    "soraflax.sharding": 0,
    "soraflax.config": 0,
    "soraflax.media": 0,
    "soraflax.memory": 0,
    "soraflax.tokenizer": 0,
    "soraflax.nn": 1,
    "soraflax.pretrained": 2,
    "soraflax.weights": 3,
    "soraflax.evaluation": 3,
    "soraflax.autoencoding": 3,
    "soraflax.generation": 4,
    "soraflax.train": 5,
    "soraflax.planning": 5,
    "soraflax.cli": 6,
    "data_pipelines": 7,
    "experiments": 8,
}
# Its own file may hand on names from any floor of the library.
FRONT = "soraflax"

# Who alone may import a package; nobody, where there is nobody. Benchmarks run peers.
ONLY = {
    "optax": ("soraflax.train",),
    "orbax": ("soraflax.train",),
    "grain": ("data_pipelines", "experiments.benchmarks"),
    "tensorflow_datasets": ("data_pipelines",),
    "array_record": ("data_pipelines",),
    "apache_beam": ("data_pipelines",),
    "ml_collections": ("experiments", "soraflax.config"),
    "av": ("soraflax.media",),
    "libtpu": ("soraflax.planning",),
    "tensorflow": (),
    "torch": ("experiments.benchmarks",),
    "diffusers": ("experiments.benchmarks",),
    "pickle": (),
}
# What a room may not import, whatever its floor.
NEVER = {
    "soraflax.ops": ("flax", "soraflax.diffusion", "soraflax.config"),
    "soraflax.diffusion": ("flax", "soraflax.ops", "soraflax.config"),
    "soraflax.nn": ("soraflax.config", "soraflax.media", "soraflax.tokenizer"),
}

FILE_LINES = 500
FUNCTION_LINES = 50
LONG_FUNCTION_LINES = 120
LONG_FUNCTIONS = ("soraflax.train.loop", "experiments.configs")
FILE_BUDGETS = {"experiments.train": 60}
COMMENTS_IN_100_LINES = 10


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def longest(module: str, table: dict[str, int]) -> int | None:
    known = [package for package in table if within(module, package)]
    return table[max(known, key=len)] if known else None


def imported(tree: ast.AST) -> set[str]:
    """Dotted names that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                names.add("." * node.level)
            else:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def import_violations(module: str, tree: ast.AST) -> list[str]:
    found = []
    own_floor = longest(module, FLOORS)
    for name in sorted(imported(tree)):
        floor = longest(name, FLOORS)
        if name.startswith("."):
            found.append(f"{module}: relative import")
        if floor is not None and own_floor is None:
            found.append(f"{module}: has no floor")
        elif (
            floor is not None
            and floor > own_floor
            and not (module == FRONT and within(name, FRONT))
        ):
            found.append(f"{module}: imports {name}, a higher floor")
        for package, rooms in ONLY.items():
            if within(name, package) and not any(within(module, r) for r in rooms):
                found.append(f"{module}: imports {name}, only for {rooms or 'nobody'}")
        for room, packages in NEVER.items():
            if within(module, room) and any(within(name, p) for p in packages):
                found.append(f"{module}: imports {name}, never in {room}")
    return found


def size_violations(module: str, source: str, tree: ast.AST) -> list[str]:
    found = []
    lines = len(source.splitlines())
    budget = FILE_BUDGETS.get(module, FILE_LINES)
    if lines > budget:
        found.append(f"{module}: {lines} lines, at most {budget}")
    is_long = any(within(module, name) for name in LONG_FUNCTIONS)
    budget = LONG_FUNCTION_LINES if is_long else FUNCTION_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            if length > budget:
                found.append(f"{module}.{node.name}: {length} lines, at most {budget}")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = sum(token.type == tokenize.COMMENT for token in tokens)
    if 100 * comments > COMMENTS_IN_100_LINES * max(lines, 50):
        found.append(f"{module}: {comments} comments in {lines} lines")
    return found


def violations(module: str, source: str) -> list[str]:
    tree = ast.parse(source)
    return import_violations(module, tree) + size_violations(module, source, tree)


def modules() -> dict[str, pathlib.Path]:
    """Every module of the house, by dotted name."""
    found = {}
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def test_the_house_is_found():
    found = modules()
    assert len(found) > 30
    for name in ("soraflax.ops.attention.block_sparse", "data_pipelines.pipeline"):
        assert name in found


@pytest.mark.parametrize("module", sorted(modules()))
def test_floors_and_budgets(module):
    assert violations(module, modules()[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("soraflax.ops.rope", "import soraflax.nn.dit", "a higher floor"),
        ("soraflax.nn.dit", "from soraflax import train", "a higher floor"),
        ("soraflax.nn.dit", "def f():\n    from soraflax.train import step", "higher"),
        ("soraflax", "import experiments.train", "a higher floor"),
        ("soraflax.cli.main", "from data_pipelines import pipeline", "a higher floor"),
        ("data_pipelines.pipeline", "import experiments.train", "a higher floor"),
        ("soraflax.ops.rope", "import flax.linen as nn", "never in soraflax.ops"),
        ("soraflax.ops.rope", "from soraflax import diffusion", "never in"),
        ("soraflax.diffusion.process", "from soraflax.ops import rope", "never in"),
        ("soraflax.nn.dit", "from soraflax import config", "never in soraflax.nn"),
        ("soraflax.nn.dit", "import optax", "only for ('soraflax.train',)"),
        ("experiments.train", "import orbax.checkpoint as ocp", "only for"),
        ("soraflax.train.loop", "import grain", "only for ('data_pipelines'"),
        ("soraflax.train.loop", "from grain import python", "only for"),
        ("soraflax.train.loop", "import ml_collections", "only for"),
        ("data_pipelines.sources", "import av", "only for ('soraflax.media',)"),
        ("experiments.train", "import torch", "only for"),
        ("soraflax.train.state", "import pickle", "only for nobody"),
        ("soraflax.nn.dit", "from . import layers", "relative import"),
        ("elsewhere.thing", "import soraflax.ops", "has no floor"),
        ("soraflax.flops", "x = 1\n" * 501, "501 lines, at most 500"),
        ("experiments.train", "x = 1\n" * 61, "61 lines, at most 60"),
        ("soraflax.flops", "def f():\n" + "    x = 1\n" * 50, "f: 51 lines"),
        ("soraflax.train.loop", "def f():\n" + "    x = 1\n" * 120, "f: 121 lines"),
        ("soraflax.flops", "x = 1\n" * 45 + "# why\n" * 6, "6 comments in 51 lines"),
    ],
)
def test_a_planted_violation_is_found(module, source, complaint):
    found = violations(module, source)
    assert len(found) == 1 and complaint in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("soraflax", "from soraflax.generation import generator"),
        ("soraflax.train.optimizer", "import optax"),
        ("soraflax.config", "import ml_collections"),
        ("soraflax.media.reading", "import av"),
        ("soraflax.nn.dit", "from soraflax.ops import rope\nimport flax"),
        ("experiments.train", "from soraflax.train import loop"),
        ("soraflax.train.loop", "def f():\n" + "    x = 1\n" * 119),
    ],
)
def test_what_is_allowed_is_allowed(module, source):
    assert violations(module, source) == []
