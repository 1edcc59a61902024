"""Print a manifest for a scheduler, filled in:

    python -m experiments.launch.render gke_jobset --set name=wan slices=2 hosts=16 \\
        accelerator=tpu-v5p-slice topology=4x4x4 image=IMAGE claim=work \\
        --run 'train --config=wan2_1_t2v_14b --config.data.path=/storage/latents ...
        --workdir=/storage/wan' | kubectl apply -f -

KIND is `gke_jobset` (slices of TPUs on GKE), `slurm` (nodes of GPUs) or `tpu_vm` (one
TPU VM). What is run is a command of `soraflax`, which gets `--config.distributed=True`.
What a manifest needs and was not given is named.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import shlex
import string
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from soraflax import config as config_lib
from soraflax.cli import parser as cli

FOLDER = pathlib.Path(__file__).parent / "manifests"
NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"  # what Kubernetes, SLURM and gcloud all take
PLAIN = r"[\w./:@%+=-]+"
COUNT = r"[1-9]\d{0,4}"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A template, and what fills it in.

    Attributes:
      file: its name in `manifests/`.
      required: fields without a default, and the pattern of each.
      defaults: fields with one.
    """

    file: str
    required: Mapping[str, str]
    defaults: Mapping[str, str]


MANIFESTS = {
    "gke_jobset": Manifest(
        "gke_jobset.yaml",
        {
            "name": NAME,
            "hosts": COUNT,
            "accelerator": PLAIN,
            "topology": r"\d+x\d+(x\d+)?",
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
        if not re.fullmatch(form, value):
            raise ValueError(f"{name} {value!r}: use one like {form}")
    if not words or words[0] != "train":
        raise ValueError("no command: give --run 'train --config=... --workdir=...'")
    if not any(word.startswith("--config.distributed=") for word in words):
        words = [*words, "--config.distributed=True"]
    text = (FOLDER / manifest.file).read_text()
    quoted = shlex.join(words)
    if kind == "tpu_vm" and "'" in quoted:
        raise ValueError("words with quotes or spaces: not over gcloud's ssh")
    filled = values | {"args": json.dumps(list(words)), "words": quoted}
    return string.Template(text).substitute(filled)


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
    return parser


def run(args: argparse.Namespace) -> None:
    """Print the manifest."""
    for pair in args.set:
        if "=" not in pair:
            raise ValueError(f"--set {pair}: use NAME=VALUE")
    fields = dict(pair.split("=", 1) for pair in args.set)
    print(render(args.kind, fields, words=shlex.split(args.run)), end="")


def main(argv: Sequence[str] | None = None) -> int:
    this: Any = sys.modules[__name__]
    words = sys.argv[1:] if argv is None else argv
    return cli.dispatch([this], ["render", *words])


if __name__ == "__main__":
    sys.exit(main())
