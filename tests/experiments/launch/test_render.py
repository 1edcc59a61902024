"""Manifests: filled in, of the form that their scheduler takes, or refused by name."""

import json
import pathlib
import re
import subprocess
from typing import Any

import jsonschema
import pytest
import yaml

from experiments.launch import render

ROOT = pathlib.Path(__file__).parents[3]
WORDS = ["train", "--config=wan2_1_t2v_14b", "--workdir=/storage/wan"]
GKE = {
    "name": "wan",
    "slices": "2",
    "hosts": "16",
    "accelerator": "tpu-v5p-slice",
    "topology": "4x4x4",
    "image": "europe-docker.pkg.dev/p/r/soraflax:1",
    "claim": "work",
}
SLURM = {"name": "wan", "hosts": "4"}


def test_a_jobset_runs_every_host_of_every_slice():
    made = yaml.safe_load(render.render("gke_jobset", GKE, words=WORDS))
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(made) == {"apiVersion", "kind", "metadata", "spec"}
    assert made["spec"]["failurePolicy"] == {"maxRestarts": 100}
    (job,) = made["spec"]["replicatedJobs"]
    assert set(job) == {"name", "replicas", "template"} and job["replicas"] == 2
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 16
    assert spec["backoffLimit"] == 0  # a lost host restarts all
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4x4"
    (container,) = pod["containers"]
    assert container["args"] == [*WORDS, "--config.distributed=True"]
    limits = container["resources"]["limits"]
    assert limits == container["resources"]["requests"] == {"google.com/tpu": 4}
    names = [volume["name"] for volume in pod["volumes"]]
    assert [mount["name"] for mount in container["volumeMounts"]] == names
    assert all(type(port["containerPort"]) is int for port in container["ports"])


def _schema() -> dict[str, Any]:
    return json.loads((ROOT / "tests/data/schemas/jobset_v1alpha2.json").read_text())


@pytest.mark.parametrize("slices", ["1", "64"])
def test_a_jobset_is_what_its_published_schema_allows(slices: str):
    made = yaml.safe_load(
        render.render("gke_jobset", GKE | {"slices": slices}, words=WORDS)
    )
    jsonschema.validate(made, _schema())


def _set(values: Any, path: str, value: Any) -> None:
    *folders, last = path.split(".")
    for name in folders:
        values = values[int(name) if name.isdigit() else name]
    values[last] = value


JOB = "spec.replicatedJobs.0.template.spec"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{JOB}.parallelism", "16"),
        (f"{JOB}.paralelism", 16),
        (f"{JOB}.template.spec.restartpolicy", "Never"),
        (f"{JOB}.template.spec.containers.0.args", "train"),
        (f"{JOB}.template.spec.containers.0.ports.0.containerPort", "8471"),
        ("spec.failurePolicy.maxRestart", 3),
        ("metadata.name", 3),
    ],
)
def test_the_schema_refuses_what_is_wrong(path: str, value: Any):
    made = yaml.safe_load(render.render("gke_jobset", GKE, words=WORDS))
    _set(made, path, value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made, _schema())


SWEEP = ["config.seed=0,1", "config.optimizer.learning_rate=1e-4,3e-4"]


def test_a_sweep_is_a_manifest_for_every_combination(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    fields = [f"{name}={value}" for name, value in GKE.items()]
    words = ["gke_jobset", "--set", *fields, "--run", " ".join(WORDS)]
    assert render.main([*words, "--sweep", *SWEEP, "--out", str(tmp_path / "s")]) == 0
    assert "4 manifests" in capsys.readouterr().out
    lines = (tmp_path / "s/sweep.jsonl").read_text().splitlines()
    assert [json.loads(line)["values"] for line in lines] == [
        {"config.seed": seed, "config.optimizer.learning_rate": rate}
        for seed in ("0", "1")
        for rate in ("1e-4", "3e-4")
    ]
    folders = set()
    for number in range(4):
        made = yaml.safe_load((tmp_path / f"s/wan-{number}.yaml").read_text())
        jsonschema.validate(made, _schema())
        assert made["metadata"]["name"] == f"wan-{number}"
        pod = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        args = pod["containers"][0]["args"]
        assert f"--config.seed={number // 2}" in args
        folders |= {word for word in args if word.startswith("--workdir=")}
    assert folders == {f"--workdir=/storage/wan/wan-{n}" for n in range(4)}
    assert render.main([*words, "--sweep", *SWEEP, "--out", str(tmp_path / "s")]) == 2
    assert "exists" in capsys.readouterr().err
    assert render.main([*words, "--sweep", *SWEEP]) == 2
    assert "--sweep and --out go together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "words", "message"),
    [
        (["seed=0,1"], WORDS, "use config.FIELD=VALUE,VALUE"),
        (["config.seed="], WORDS, "use config.FIELD=VALUE,VALUE"),
        (["config.seed=0,0"], WORDS, "a value is there twice"),
        (["config.seed=0", "config.seed=1"], WORDS, "config.seed is given twice"),
        (["config.seed=0"], [*WORDS, "--config.seed=1"], "is given twice"),
        (["config.seed=0"], WORDS[:2], "one --workdir=FOLDER"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(fields, words, message):
    with pytest.raises(ValueError, match=message):
        render.sweep("wan", words, fields=fields)


def test_words_with_quotes_stay_words():
    words = [*WORDS, "--config.evaluation.words=(('a', 'b \"c\"'),)", "$HOME"]
    made = yaml.safe_load(render.render("gke_jobset", GKE, words=words))
    pod = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"][:-1] == words
    text = render.render("slurm", SLURM, words=words)
    line = next(line for line in text.splitlines() if line.startswith("srun"))
    said = subprocess.run(
        ["bash", "-c", line.replace("srun", 'printf "%s\\n"').rstrip(" &")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert said[3:-1] == words
    with pytest.raises(ValueError, match="not over gcloud's ssh"):
        render.render("tpu_vm", {"name": "wan", "zone": "us-east5-a"}, words=words)


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [(0, 0, False), (75, 0, True), (143, 3, True), (2, 0, False), (75, 100, False)],
)
def test_a_job_of_slurm_is_queued_again_unless_it_is_done(
    status: int, restarts: int, requeued: bool, tmp_path: pathlib.Path
):
    for name, body in (
        ("srun", f"exit {status}"),
        ("scontrol", f'echo "$@" > {tmp_path}/asked'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    script = tmp_path / "job.sbatch"
    script.write_text(render.render("slurm", SLURM, words=WORDS))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    environment["SLURM_RESTART_COUNT"] = str(restarts)
    ended = subprocess.run(["bash", str(script)], env=environment, check=False)
    assert ended.returncode == status
    assert (tmp_path / "asked").exists() == requeued
    if requeued:
        assert (tmp_path / "asked").read_text() == "requeue 7\n"


def test_a_job_of_slurm_asks_for_a_process_for_each_gpu():
    text = render.render("slurm", SLURM | {"chips": "4"}, words=WORDS)
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert asked["nodes"] == "4"
    assert asked["ntasks-per-node"] == asked["gpus-per-node"] == "4"
    assert asked["signal"] == "TERM@120" and "requeue" in asked
    assert "$$" not in text and "${" not in text.replace("${SLURM_RESTART_COUNT", "")


def test_a_tpu_vm_is_reached_on_all_its_hosts():
    fields = {"name": "wan", "zone": "us-east5-a"}
    text = render.render("tpu_vm", fields, words=WORDS)
    assert "ssh wan --zone=us-east5-a --worker=all" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("gke", GKE, "manifest 'gke'"),
        ("slurm", {"name": "wan"}, "slurm needs hosts: give --set NAME=VALUE"),
        ("slurm", SLURM | {"host": "4"}, "host: .*hosts"),
        ("slurm", SLURM | {"hosts": "4; rm"}, r"hosts '4; rm': use a number"),
        ("slurm", SLURM | {"name": "a b"}, "name 'a b': use at most 40 small"),
        ("gke_jobset", GKE | {"topology": "4y4"}, "'4y4': use chips along each side"),
        ("gke_jobset", GKE | {"hosts": "3"}, r"64 chips, 3 hosts of 4 have 12: .*=16"),
        ("gke_jobset", GKE | {"image": "x\ny: z"}, "image"),
    ],
)
def test_what_does_not_fit_is_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        render.render(kind, fields, words=WORDS)


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]):
    fields = [f"{name}={value}" for name, value in GKE.items()]
    assert render.main(["gke_jobset", "--set", *fields, "--run", " ".join(WORDS)]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["metadata"]["name"] == "wan"
    assert render.main(["gke_jobset", "--set", *fields]) == 2
    assert "no command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "swept", "message"),
    [
        ("", [], "no command: give --run"),
        ("trian --config=video_small --workdir=/w", [], "no command: give --run"),
        ("train --config=video_smal --workdir=/w", [], "did you mean 'video_small'"),
        ("train --config=video_small", [], "--run train: .* required: --workdir"),
        ("train --config=video_small --config.sed=1 --workdir=/w", [], "sed: unknown"),
        ("train --config=video_small --config.seed=x --workdir=/w", [], "seed"),
        ("train --config=video_small --workdir=/w", ["config.seed=0,x"], "seed"),
        ("train --config=video_small --workdir=/w", ["config.sed=0,1"], "sed: unknown"),
        ("train --config=/image/own.py --config.a=1 --workdir=/w", [], None),
        ("train --config video_small --workdir /w", [], None),
    ],
)
def test_a_command_is_checked_before_it_is_sent(
    command: str,
    swept: list[str],
    message: str | None,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
):
    words = ["slurm", "--set", "name=wan", "hosts=4", "--run", command]
    if swept:
        words += ["--sweep", *swept, "--out", str(tmp_path / "sweep")]
    try:
        status = render.main(words)
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr()
    if message is None:
        assert status == 0 and "srun" in said.out
        return
    assert status == 2 and not said.out and len(said.err.splitlines()) == 1
    assert re.search(message, said.err)
    assert not (tmp_path / "sweep").exists()


def test_the_image_copies_what_is_there():
    text = (render.FOLDER / "Dockerfile").read_text()
    copied = [
        w for line in re.findall(r"^COPY (.*)$", text, re.M) for w in line.split()
    ]
    assert all((ROOT / name).exists() for name in copied if name != "./")
    assert 'ENTRYPOINT ["soraflax"]' in text.splitlines()
