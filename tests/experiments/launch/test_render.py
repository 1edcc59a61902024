"""Manifests: filled in, of the form that their scheduler takes, or refused by name."""

import pathlib
import re
import subprocess

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
        ("slurm", SLURM | {"hosts": "4; rm"}, r"hosts '4; rm': use one like"),
        ("slurm", SLURM | {"name": "a b"}, "name 'a b': use one like"),
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


def test_the_image_copies_what_is_there():
    text = (render.FOLDER / "Dockerfile").read_text()
    copied = [
        w for line in re.findall(r"^COPY (.*)$", text, re.M) for w in line.split()
    ]
    assert all((ROOT / name).exists() for name in copied if name != "./")
    assert 'ENTRYPOINT ["soraflax"]' in text.splitlines()
