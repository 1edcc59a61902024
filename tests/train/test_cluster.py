"""What JAX is told of the processes of a run."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import pytest

from soraflax.train import cluster

PLAIN = {"initialization_timeout": 3900, "heartbeat_timeout_seconds": 100}
THREE = {"coordinator_address": "n0:9876", "num_processes": 4, "process_id": 2}


@pytest.mark.parametrize(
    ("config", "environ", "expected"),
    [
        ({}, {}, {}),
        ({}, {"SLURM_JOB_ID": "7", "SLURM_PROCID": "2"}, {}),
        ({"coordinator": "n0:9876", "count": 4, "id": 2}, {"RANK": "1"}, THREE),
        (
            {},
            {
                "SORAFLAX_COORDINATOR": "n0:9876",
                "SORAFLAX_PROCESSES": "4",
                "SORAFLAX_PROCESS": "2",
                "MASTER_ADDR": "n9",
                "RANK": "0",
            },
            THREE,
        ),
        (
            {},
            {
                "MASTER_ADDR": "n0",
                "MASTER_PORT": "9876",
                "WORLD_SIZE": "4",
                "RANK": "2",
            },
            THREE,
        ),
        (
            {"id": 2},
            {
                "MASTER_ADDR": "n0",
                "MASTER_PORT": "9876",
                "WORLD_SIZE": "4",
                "RANK": "0",
            },
            THREE,
        ),
    ],
)
def test_what_is_not_given_comes_from_the_environment(config, environ, expected):
    words = cluster.arguments(cluster.ClusterConfig(**config), environ)
    if len(expected) == 3:  # nothing is left to JAX to find
        expected = expected | {"cluster_detection_method": "deactivate"}
    assert words == PLAIN | expected


@pytest.mark.parametrize(
    ("config", "environ", "message"),
    [
        ({"coordinator": "n0"}, {}, r"coordinator 'n0': use HOST:PORT, as in n0:9876"),
        ({"coordinator": "n0:70000"}, {}, "use HOST:PORT"),
        ({"count": 4, "id": 4}, {}, "cluster.id 4 of cluster.count 4: use 0 to 3"),
        ({"heartbeat_seconds": 0}, {}, "use 1 or more"),
        ({}, {"MASTER_ADDR": "n0", "RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'"),
        (
            {},
            {"MASTER_ADDR": "n0", "RANK": "2", "WORLD_SIZE": "2"},
            "cluster.id 2 of cluster.count 2: use 0 to 1",
        ),
    ],
)
def test_impossible_processes_are_refused(config, environ, message):
    with pytest.raises(ValueError, match=message):
        cluster.arguments(cluster.ClusterConfig(**config), environ)


def test_a_run_whose_processes_nobody_knows_says_what_to_give(
    monkeypatch: pytest.MonkeyPatch,
):
    def initialize(**words: object) -> None:
        assert words == PLAIN
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    assert not cluster.ClusterConfig().is_given
    with pytest.raises(ValueError, match=r"give --config\.cluster"):
        cluster.start(cluster.ClusterConfig(), {})


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("by", ["configuration", "slurm"])
def test_two_processes_meet(by: str):
    """By the configuration, in a job of SLURM that knows of one; and by SLURM."""
    port = free_port()
    given = "coordinator=sys.argv[1], count=2, id=int(sys.argv[2])"
    script = (
        "import sys, jax; from soraflax.train import cluster; "
        f"cluster.start(cluster.ClusterConfig({given if by != 'slurm' else ''})); "
        "print(jax.process_index(), jax.process_count())"
    )
    slurm = {"SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost"}
    slurm |= {"SLURM_NTASKS": "2" if by == "slurm" else "1", "SLURM_LOCALID": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, f"127.0.0.1:{port}", str(rank)],
            env=os.environ
            | slurm
            | {"SLURM_PROCID": str(rank if by == "slurm" else 0)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [text.splitlines()[-1] for text in said] == ["0 2", "1 2"]


@pytest.mark.parametrize(
    ("told", "seconds", "line"),
    [
        (["1 of 2"], 3, r"process 1: no process 0 at 127\.0\.0\.1:\d+ after 3 s \("),
        (["0 of 2"], 3, r"process 0: 2 processes did not meet at .* in 3 s: start"),
        (
            ["0 of 3"],
            3,
            r"did not meet at .* own cluster\.id and the same cluster\.cou",
        ),
        (["0 of 2", "1 of 3"], 90, r"differs: 2 to process 0, 3 to process 1: give"),
    ],
)
def test_processes_that_do_not_meet_end_in_a_line(
    told: list[str], seconds: int, line: str, tmp_path: pathlib.Path
):
    """Through the command, as a newcomer meets it: status 2, and nothing is left."""
    port, processes = free_port(), []
    for text in told:
        rank, _, count = text.split()
        words = [sys.executable, "-m", "experiments.train", "--config=video_small"]
        given = {
            "coordinator": f"127.0.0.1:{port}",
            "count": count,
            "id": rank,
            "start_seconds": seconds,
        }
        words += [f"--config.cluster.{name}={value}" for name, value in given.items()]
        words += ["--config.data.path=none", "--config.autoencoder=none"]
        words += [f"--workdir={tmp_path}/run"]
        processes.append(
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
    try:
        said = [process.communicate(timeout=200)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 2, text
        (own,) = (x for x in text.splitlines() if x.startswith("soraflax train: "))
        assert re.search(line, own)
    assert not (tmp_path / "run").exists()


def test_a_taken_port_is_refused():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = f"127.0.0.1:{other.getsockname()[1]}"
        config = cluster.ClusterConfig(coordinator=place, count=2, id=0)
        with pytest.raises(ValueError, match=r"is taken .* cluster\.id 0, or the port"):
            cluster.start(config, {})
