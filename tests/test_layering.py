"""The floors of the house, and its budgets, read from the source itself."""

import ast
import io
import pathlib
import tokenize
from collections.abc import Collection

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
    "soraflax.halos": 0,
    "soraflax.config": 0,
    "soraflax.media": 0,
    "soraflax.compilation_cache": 0,
    "soraflax.process_memory": 0,
    "soraflax.tokenizer": 0,
    "soraflax.extensions": 0,
    "soraflax.nn": 1,
    "soraflax.pretrained": 2,
    "soraflax.weights": 3,
    "soraflax.evaluation": 3,
    "soraflax.autoencoding": 3,
    "soraflax.generation": 4,
    "soraflax.train": 5,
    "soraflax.planning": 5,
    "soraflax.serving": 5,
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
    "av": ("soraflax.media", "experiments.benchmarks"),
    "gradio": ("soraflax.serving",),
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
CLASS_LINES = 200
PARAMETERS = 8  # all but self; the fields of a dataclass are no parameters
POSITIONAL = 2
COMMENTS_IN_100_LINES = 10
# Other budgets of lines, and why. The longest prefix of a module's name decides.
FILE_BUDGETS = {"experiments.train": 60}
FUNCTION_BUDGETS = {
    "experiments.configs": 120,  # values, one a line
    # Kernels: a tile is read, computed and written in one place.
    "soraflax.ops.attention": 70,
    "soraflax.nn.dit": 70,  # the forward pass, in the order of its equations
    # Orchestration: steps of one job, in order.
    "soraflax.autoencoding": 70,
    "soraflax.cli": 70,
    "soraflax.generation": 70,
    "soraflax.planning": 70,
    "soraflax.train": 70,
    "data_pipelines.curate.curation": 70,
    "data_pipelines.latents": 70,
    "data_pipelines.pipeline": 70,
    "data_pipelines.prepare": 70,
    "experiments": 70,
}
# Parameters that go together in one order everywhere, as many as there are.
TOGETHER = (("q", "k", "v"), ("frames", "height", "width"), ("time", "height", "width"))
# More positional parameters than POSITIONAL, because another fixes the call.
FIXED_CALLERS = {
    "soraflax.train.adversarial.loss": "soraflax.train.step calls every loss",
    "soraflax.train.captioning.loss": "soraflax.train.step calls every loss",
    "soraflax.train.denoising.loss": "soraflax.train.step calls every loss",
    "soraflax.train.reconstruction.loss": "soraflax.train.step calls every loss",
    "soraflax.train.step.lower": "takes what __call__ takes, and Flax that of jit",
    "soraflax.cli.parser._fill_text": "argparse calls it",
}
# Rooms whose public functions give the shape of every array they take or return.
SHAPED = ("soraflax.ops", "soraflax.train", "data_pipelines")
ARRAYS = ("np.ndarray", "jax.Array", "Array")
# Functions without shapes that are still to be given them: at most so many in a module.
STILL_TO_SHAPE: dict[str, int] = {
    "soraflax.train.adversarial": 3,
    "soraflax.train.denoising": 2,
    "soraflax.train.loop": 1,
    "soraflax.train.mask_sampling": 2,
    "soraflax.train.reconstruction": 3,
    "soraflax.train.step": 1,
}
# Violations of budgets that are still to be mended: at most so many in a module.
STILL_TO_MEND: dict[str, int] = {
    "experiments.benchmarks.tasks.clips": 1,
    "soraflax.generation.generator": 1,
    "soraflax.generation.jobs": 2,
    "soraflax.generation.model": 8,
}
# Tests of what no one module holds. Every other tests/X/test_y.py is of a module X/y.
NO_MODULE = {
    "beam/": "what runs with Apache Beam, which `make beam` installs",
    "c2pa/test_signing.py": "signing with the library that `make c2pa` installs",
    "cli/test_tasks.py": "the commands that take clips and images, all alike",
    "compiler/test_plan.py": "the planner with the compiler that `make plan` installs",
    "data_pipelines/curate/test_fuzz.py": "curation, of damaged files",
    "data_pipelines/curate/test_hostile.py": "curation, of hostile files",
    "data_pipelines/test_journey.py": "three commands from raw files to training",
    "data_pipelines/worlds/test_more_worlds.py": "three worlds, all alike",
    "docs/": "the pages",
    "examples/": "the examples",
    "experiments/test_process_faults.py": "two processes, under faults",
    "experiments/test_refusals.py": "every stage, on bad input",
    "experiments/test_storage_processes.py": "two processes, in buckets and caching",
    "experiments/test_two_processes.py": "every stage, in two processes",
    "experiments/test_wan_configs.py": "the configs of one family",
    "generation/test_batch_invariance.py": "the generator, all of it",
    "media/test_fuzz.py": "every reader, on damaged files",
    "media/test_memory.py": "every reader, on large files",
    "media/test_walks.py": "every walk of a container",
    "ops/attention/test_packed.py": "every implementation",
    "parity/": "others' code beside ours",
    "reliability/": "runs under faults",
    "test_layering.py": "the source",
    "test_media_streams.py": "reading and writing, frame by frame",
    "test_package.py": "the wheel",
    "test_public.py": "the package",
    "test_readme.py": "the README",
}


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
            and own_floor is not None
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


def functions(tree: ast.AST) -> list[tuple[ast.FunctionDef, list[str], list[str]]]:
    """Every function with its positional and its keyword-only parameters, less self."""
    found = []
    for parent in ast.walk(tree):
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [a.arg for a in node.args.posonlyargs + node.args.args]
                decorators = [ast.unparse(d) for d in node.decorator_list]
                is_method = isinstance(parent, ast.ClassDef)
                if is_method and "staticmethod" not in decorators:
                    names = names[1:]
                found.append((node, names, [a.arg for a in node.args.kwonlyargs]))
    return found


def passed_on(tree: ast.AST) -> set[str]:
    """Functions that a module hands to another one, which decides how it calls them."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Load)
        and id(node) not in called
    }
    methods = {
        node.name
        for parent in ast.walk(tree)
        if isinstance(parent, ast.ClassDef)
        for node in parent.body
        if isinstance(node, ast.FunctionDef)
    }
    return names - methods  # a method is handed on as an attribute


def is_called_by_others(node: ast.FunctionDef) -> bool:
    """Whether Python, Flax or a transformation with positions fixes the call."""
    if node.name.startswith("__") and node.name != "__init__":
        return True
    decorators = " ".join(ast.unparse(d) for d in node.decorator_list)
    return any(word in decorators for word in ("custom_vjp", "argnum"))


def parameter_violations(module: str, tree: ast.AST) -> list[str]:
    found = []
    handed_on = passed_on(tree)
    for node, positional, keywords in functions(tree):
        name = f"{module}.{node.name}"
        # The buffers of a Pallas kernel are counted by its grid, not here.
        own = [n for n in positional + keywords if not n.endswith("_ref")]
        if len(own) > PARAMETERS:
            found.append(f"{name}: {len(own)} parameters, at most {PARAMETERS}")
        if (
            len(positional) > POSITIONAL
            and not any(tuple(positional[: len(t)]) == t for t in TOGETHER)
            and node.name not in handed_on
            and not is_called_by_others(node)
            and name not in FIXED_CALLERS
        ):
            found.append(
                f"{name}: {len(positional)} positional parameters, at most {POSITIONAL}"
            )
    return found


def bare_arrays(annotation: ast.AST) -> list[str]:
    """Arrays in an annotation without a shape, as `Float[np.ndarray, "T 3"]` has."""
    shaped = set()
    for node in ast.walk(annotation):
        pair = getattr(node, "slice", None)
        if isinstance(pair, ast.Tuple) and len(pair.elts) == 2:
            array, shape = pair.elts
            if isinstance(shape, ast.Constant) and isinstance(shape.value, str):
                shaped |= {id(part) for part in ast.walk(array)}
    return [
        ast.unparse(node)
        for node in ast.walk(annotation)
        if isinstance(node, ast.Attribute | ast.Name)
        and ast.unparse(node) in ARRAYS
        and id(node) not in shaped
    ]


def shape_violations(module: str, tree: ast.Module) -> list[str]:
    """Public functions and methods with an array in their signature, but no shape."""
    if not any(within(module, room) for room in SHAPED):
        return []
    found = []
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    public = [node for node in classes if not node.name.startswith("_")]
    for node in (node for scope in (tree, *public) for node in scope.body):
        if not isinstance(node, ast.FunctionDef) or (
            node.name.startswith("_") and node.name != "__call__"
        ):
            continue
        every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        annotations = [a.annotation for a in every] + [node.returns]
        if bare := [x for a in annotations if a is not None for x in bare_arrays(a)]:
            found.append(f"{module}.{node.name}: {bare[0]} without a shape")
    return found


def size_violations(module: str, source: str, tree: ast.AST) -> list[str]:
    found = []
    lines = len(source.splitlines())
    budget = FILE_BUDGETS.get(module, FILE_LINES)
    if lines > budget:
        found.append(f"{module}: {lines} lines, at most {budget}")
    budget = longest(module, FUNCTION_BUDGETS) or FUNCTION_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            most = CLASS_LINES
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            most = budget
        else:
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > most:
            found.append(f"{module}.{node.name}: {length} lines, at most {most}")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = sum(token.type == tokenize.COMMENT for token in tokens)
    if 100 * comments > COMMENTS_IN_100_LINES * max(lines, 50):
        found.append(f"{module}: {comments} comments in {lines} lines")
    return found


def violations(module: str, source: str) -> list[str]:
    tree = ast.parse(source)
    return (
        import_violations(module, tree)
        + size_violations(module, source, tree)
        + parameter_violations(module, tree)
        + shape_violations(module, tree)
    )


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
    found = violations(module, modules()[module].read_text())
    most = STILL_TO_MEND.get(module, 0) + STILL_TO_SHAPE.get(module, 0)
    assert len(found) <= most, found


def test_exceptions_are_of_this_house():
    names = {
        f"{module}.{node.name}"
        for module, path in modules().items()
        for node, _, _ in functions(ast.parse(path.read_text()))
    }
    assert FIXED_CALLERS.keys() <= names
    assert STILL_TO_MEND.keys() | STILL_TO_SHAPE.keys() <= modules().keys()


def unmatched(test: str, names: Collection[str]) -> bool:
    """Whether a test, by its path in the folder of tests, mirrors none of `names`."""
    path = pathlib.PurePath(test)
    parts = [*path.parts[:-1], path.stem.removeprefix("test_")]
    return not {".".join(parts), ".".join(["soraflax", *parts])} & set(names)


def test_tests_mirror_the_tree():
    folder = ROOT / "tests"
    tests = {str(path.relative_to(folder)) for path in folder.rglob("test_*.py")}
    alone = {test for test in tests if unmatched(test, modules())}
    assert {t for t in alone if not t.startswith(tuple(NO_MODULE))} == set()
    assert [r for r in NO_MODULE if not any(t.startswith(r) for t in alone)] == []
    assert unmatched("nn/test_ops.py", ["soraflax.ops", "soraflax.nn.dit"])
    assert not unmatched("nn/test_dit.py", ["soraflax.ops", "soraflax.nn.dit"])
    assert not unmatched("stages/test_a.py", ["stages.a"])


def test_what_is_slow_exists():
    for line in (ROOT / "tests" / "slow.txt").read_text().splitlines():
        if not line.startswith("#"):
            path, _, name = line.partition("::")
            text = (ROOT / "tests" / path).read_text()
            assert f"def {name.partition('[')[0]}" in text, line


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
        ("data_pipelines.sources", "import av", "only for ('soraflax.media'"),
        ("experiments.train", "import torch", "only for"),
        ("soraflax.train.state", "import pickle", "only for nobody"),
        ("soraflax.nn.dit", "from . import layers", "relative import"),
        ("elsewhere.thing", "import soraflax.ops", "has no floor"),
        ("soraflax.flops", "x = 1\n" * 501, "501 lines, at most 500"),
        ("experiments.train", "x = 1\n" * 61, "61 lines, at most 60"),
        ("soraflax.flops", "def f():\n" + "    x = 1\n" * 50, "f: 51 lines"),
        ("experiments.configs.demo", "def f():\n" + "    x = 1\n" * 120, "f: 121"),
        ("soraflax.nn.dit", "def f():\n" + "    x = 1\n" * 70, "f: 71 lines"),
        ("soraflax.cli.main", "def f():\n" + "    x = 1\n" * 70, "at most 70"),
        ("soraflax.flops", "class A:\n" + "    x = 1\n" * 200, "A: 201 lines"),
        ("soraflax.flops", "def f(a, *, b, c, d, e, f, g, h, i): ...", "9 parameters"),
        ("soraflax.flops", "def f(a, b, c): ...", "f: 3 positional parameters"),
        ("soraflax.flops", "def f(k, q, v): ...", "f: 3 positional parameters"),
        ("soraflax.flops", "def f(a, b, c): ...\nf(1, 2, 3)", "3 positional"),
        ("soraflax.flops", "@jax.jit\ndef f(a, b, c): ...", "3 positional"),
        ("soraflax.flops", "def f():\n    def g(a, b, c): ...", "g: 3 positional"),
        ("soraflax.flops", "class A:\n    def f(self, a, b, c): ...", "3 positional"),
        ("soraflax.flops", "class A:\n    def __init__(self, a, b, c): ...", "3"),
        ("soraflax.flops", "class A:\n    def f(self, a, b, c): ...\ng(f)", "3"),
        ("soraflax.flops", "x = 1\n" * 45 + "# why\n" * 6, "6 comments in 51 lines"),
        ("soraflax.ops.rope", "def f(x: jax.Array): ...", "f: jax.Array without"),
        ("soraflax.ops.rope", "def f() -> tuple[np.ndarray, int]: ...", "np.ndarray"),
        ("soraflax.train.step", "def f(*, x: Mapping[str, Array]): ...", "Array"),
        (
            "data_pipelines.packing",
            "class A:\n    def f(self, x: np.ndarray | None): ...",
            "f: np.ndarray without a shape",
        ),
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
        ("experiments.configs.demo", "def f():\n" + "    x = 1\n" * 119),
        ("soraflax.ops.attention.ring", "def f():\n" + "    x = 1\n" * 69),
        ("soraflax.flops", "class A:\n" + "    x: int = 1\n" * 199),
        ("soraflax.flops", "def f(a, *, b, c, d, e, f, g, h): ..."),
        ("soraflax.flops", "def f(a_ref, *, b, c, d, e, f, g, h, i): ..."),
        ("soraflax.flops", "def f(q, k, v, plan): ..."),
        ("soraflax.flops", "def f(a, b, c): ...\njax.lax.scan(f, 0, 1)"),
        ("soraflax.flops", "@jax.custom_vjp\ndef f(a, b, c): ..."),
        ("soraflax.flops", "class A:\n    def f(self, a, b): ..."),
        ("soraflax.flops", "class A:\n    def __call__(self, a, b, c): ..."),
        ("soraflax.ops.rope", "def f(x: Float[jax.Array, 'B N']): ..."),
        ("soraflax.ops.rope", "def f(x: Float[Array | np.ndarray, '...'] | None): ..."),
        ("soraflax.ops.rope", "def _f(x: jax.Array): ..."),
        ("soraflax.flops", "def f(x: jax.Array): ..."),
    ],
)
def test_what_is_allowed_is_allowed(module, source):
    assert violations(module, source) == []
