"""Print a manifest for a scheduler, filled in:

    python -m experiments.launch.render gke_jobset --set name=wan slices=2 hosts=16 \\
        accelerator=tpu-v5p-slice topology=4x4x4 image=IMAGE claim=work \\
        --run 'train --config=wan2_1_t2v_14b --config.data.path=/storage/latents ...
        --workdir=/storage/wan' | kubectl apply -f -

KIND is `gke_jobset` (slices of TPUs on GKE), `slurm` (nodes of GPUs) or `tpu_vm` (one
TPU VM). What is run is a command of `soraflax`, which gets `--config.distributed=True`.
What a manifest needs and was not given is named; so is a field of the config that does
not exist, where the config is one that this machine has.

A sweep is a manifest for every combination of values, each with a name and a work
folder of its own, in a folder:

    python -m experiments.launch.render gke_jobset --set name=wan ... \\
        --run 'train ...' --out sweep \\
        --sweep config.seed=0,1 config.optimizer.learning_rate=1e-4,3e-4
    kubectl apply -f sweep      # or: for job in sweep/*.sbatch; do sbatch $job; done

`sweep/sweep.jsonl` says which is which. All of them resume as one does.
"""

import argparse
import dataclasses
import itertools
import json
import math
import pathlib
import re
import shlex
import string
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import configs, train
from soraflax import config as config_lib
from soraflax.cli import parser as cli

FOLDER = pathlib.Path(__file__).parent / "manifests"


@dataclasses.dataclass(frozen=True)
class Form:
    """What the value of a field looks like.

    Attributes:
      pattern: regular expression of the whole value.
      words: the same for a person.
    """

    pattern: str
    words: str


# What Kubernetes, SLURM and gcloud all take.
NAME = Form(
    r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?",
    "use at most 40 small letters, digits and -, a letter first, as in wan-14b",
)
PLAIN = Form(r"[\w./:@%+=-]+", "use one word, without spaces or quotes")
COUNT = Form(r"[1-9]\d{0,4}", "use a number, 1 to 99999")
TOPOLOGY = Form(r"\d+x\d+(x\d+)?", "use chips along each side of a slice, as in 4x4x4")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A template, and what fills it in.

    Attributes:
      file: its name in `manifests/`.
      required: fields without a default, and the form of each.
      defaults: fields with one.
    """

    file: str
    required: Mapping[str, Form]
    defaults: Mapping[str, str]


MANIFESTS = {
    "gke_jobset": Manifest(
        "gke_jobset.yaml",
        {
            "name": NAME,
            "hosts": COUNT,
            "accelerator": PLAIN,
            "topology": TOPOLOGY,
            "image": PLAIN,
            "claim": NAME,
        },
        {"slices": "1", "chips": "4", "restarts": "100", "mount": "/storage"},
    ),
    "slurm": Manifest(
        "slurm.sbatch",
        {"name": NAME, "hosts": COUNT},
        {
            "chips": "8",
            "cpus": "12",
            "hours": "24",
            "restarts": "100",
            "log": "%x-%j.log",
        },
    ),
    "tpu_vm": Manifest("tpu_vm.sh", {"name": NAME, "zone": PLAIN}, {}),
}
_COUNTS = ("slices", "chips", "restarts", "cpus", "hours")


def render(kind: str, fields: Mapping[str, str], *, words: Sequence[str]) -> str:
    """A manifest with its fields, and the words of the command that it runs.

    Raises:
      ValueError: no such kind, a field that is missing, unknown or of another form.
    """
    if kind not in MANIFESTS:
        hint = config_lib.nearest(kind, list(MANIFESTS))
        raise ValueError(f"manifest {kind!r}: {hint}")
    manifest = MANIFESTS[kind]
    known = {*manifest.required, *manifest.defaults}
    for name in fields:
        if name not in known:
            raise ValueError(f"{name}: {config_lib.nearest(name, sorted(known))}")
    if missing := sorted(manifest.required.keys() - fields.keys()):
        raise ValueError(f"{kind} needs {', '.join(missing)}: give --set NAME=VALUE")
    values = {**manifest.defaults, **fields}
    for name, value in values.items():
        form = COUNT if name in _COUNTS else manifest.required.get(name, PLAIN)
        if not re.fullmatch(form.pattern, value):
            raise ValueError(f"{name} {value!r}: {form.words}")
    if "topology" in values:
        check_topology(values)
    if not any(word.startswith("--config.distributed=") for word in words):
        words = [*words, "--config.distributed=True"]
    text = (FOLDER / manifest.file).read_text()
    quoted = shlex.join(words)
    if kind == "tpu_vm" and "'" in quoted:
        raise ValueError("words with quotes or spaces: not over gcloud's ssh")
    filled = values | {"args": json.dumps(list(words)), "words": quoted}
    return string.Template(text).substitute(filled)


def check_topology(values: Mapping[str, str]) -> None:
    """Refuse hosts that do not make up the slice: its pods would never be scheduled.

    Raises:
      ValueError: naming both numbers of chips.
    """
    slice_chips = math.prod(map(int, values["topology"].split("x")))
    hosts, chips = int(values["hosts"]), int(values["chips"])
    if hosts * chips != slice_chips:
        fitting = max(1, slice_chips // chips)
        raise ValueError(
            f"topology {values['topology']} has {slice_chips} chips, {hosts} hosts of "
            f"{chips} have {hosts * chips}: use hosts={fitting}, or the chips of a host"
        )


def check_command(words: Sequence[str], *, swept: Sequence[str] = ()) -> None:
    """Refuse what the command would refuse on its cluster, minutes later.

    A config that is a file of another machine is not looked into.

    Args:
      words: the command, `train --config=... --workdir=...`.
      swept: `--config.FIELD=VALUE` of each value of a sweep.

    Raises:
      ValueError: no command, no such config, or a field that it does not have.
      SystemExit: `--config` or `--workdir` is missing, which is said.
    """
    if not words or words[0] != "train":
        raise ValueError("no command: give --run 'train --config=... --workdir=...'")
    parser = cli.Parser(prog="soraflax render: --run")
    train.add_parser(parser.add_subparsers(parser_class=cli.Parser))
    given = parser.parse_args(words)
    name = given.config.partition(":")[0]
    if name.endswith(".py") and not pathlib.Path(name).exists():
        return
    for overrides in ([], *([word] for word in swept)):
        configs.override(configs.load(given.config), [*given.overrides, *overrides])


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
      name: name of its job, and of its work folder within that of the sweep.
      values: value of every field that is swept.
      words: the command that it runs.
    """

    name: str
    values: Mapping[str, str]
    words: Sequence[str]


def sweep(name: str, words: Sequence[str], *, fields: Sequence[str]) -> list[Point]:
    """The runs of a sweep, in order; the last field changes fastest.

    Args:
      name: name of the sweep.
      words: the command of all runs, with `--workdir=`.
      fields: `config.FIELD=VALUE,VALUE...` of every field.

    Raises:
      ValueError: a field of another form, named twice or fixed by `words`; a value
        twice; or no work folder.
    """
    swept: dict[str, list[str]] = {}
    for field in fields:
        key, _, listed = field.partition("=")
        values = listed.split(",")
        if not key.startswith("config.") or not all(values):
            raise ValueError(f"--sweep {field}: use config.FIELD=VALUE,VALUE")
        if len(set(values)) < len(values):
            raise ValueError(f"--sweep {field}: a value is there twice")
        if key in swept or any(word.startswith(f"--{key}=") for word in words):
            raise ValueError(f"--sweep {field}: {key} is given twice")
        swept[key] = values
    folders = [i for i, word in enumerate(words) if word.startswith("--workdir=")]
    if len(folders) != 1:
        raise ValueError("--run: give the folder of the sweep as one --workdir=FOLDER")
    points = []
    for number, chosen in enumerate(itertools.product(*swept.values())):
        values = dict(zip(swept, chosen, strict=True))
        own, made = f"{name}-{number}", list(words)
        made[folders[0]] = f"{words[folders[0]].rstrip('/')}/{own}"
        made += [f"--{key}={value}" for key, value in values.items()]
        points.append(Point(own, values, made))
    return points


def write_sweep(
    kind: str,
    fields: Mapping[str, str],
    *,
    points: Sequence[Point],
    folder: pathlib.Path,
) -> None:
    """Write a manifest for every point, and `sweep.jsonl`.

    Raises:
      ValueError: as of `render`; or `folder` holds something.
    """
    texts = {
        point.name: render(kind, {**fields, "name": point.name}, words=point.words)
        for point in points
    }
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    suffix = pathlib.Path(MANIFESTS[kind].file).suffix
    for name, text in texts.items():
        (folder / f"{name}{suffix}").write_text(text)
    lines = [json.dumps(dataclasses.asdict(point)) + "\n" for point in points]
    (folder / "sweep.jsonl").write_text("".join(lines))


def add_parser(subparsers: Any) -> cli.Parser:
    """The parser of the command."""
    parser = subparsers.add_parser(
        "render",
        help="print a manifest for a scheduler",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("kind", metavar="KIND", help=", ".join(MANIFESTS))
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="fields")
    add("--run", default="", metavar="COMMAND", help="train --config=... --workdir=...")
    add("--sweep", nargs="+", default=[], metavar="FIELD=V,V", help="config.FIELD=V,V")
    add("--out", type=pathlib.Path, metavar="FOLDER", help="of a sweep, to make")
    return parser


def run(args: argparse.Namespace) -> None:
    """Print the manifest."""
    for pair in args.set:
        if "=" not in pair:
            raise ValueError(f"--set {pair}: use NAME=VALUE")
    fields = dict(pair.split("=", 1) for pair in args.set)
    words = shlex.split(args.run)
    if bool(args.sweep) != bool(args.out):
        raise ValueError("--sweep and --out go together")
    check_command(words)
    if not args.sweep:
        print(render(args.kind, fields, words=words), end="")
        return
    points = sweep(fields.get("name", "run"), words, fields=args.sweep)
    each = {f"--{key}={value}" for p in points for key, value in p.values.items()}
    check_command(words, swept=sorted(each))
    write_sweep(args.kind, fields, points=points, folder=args.out)
    print(f"{args.out}: {len(points)} manifests; which is which is in sweep.jsonl")


def main(argv: Sequence[str] | None = None) -> int:
    this: Any = sys.modules[__name__]
    words = sys.argv[1:] if argv is None else argv
    return cli.dispatch([this], ["render", *words])


if __name__ == "__main__":
    sys.exit(main())
