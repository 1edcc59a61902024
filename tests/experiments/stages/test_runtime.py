"""What all stages do around training."""

import pathlib

import jax
import pytest

from experiments.stages import runtime

CACHE = "jax_compilation_cache_dir"


@pytest.mark.parametrize(
    ("backend", "programs", "kept"),
    [
        ("tpu", "", "WORKDIR/compiled"),
        ("gpu", "", "WORKDIR/compiled"),
        ("tpu", "elsewhere", "elsewhere"),
        ("tpu", "none", None),
        ("cpu", "", None),
        ("cpu", "elsewhere", "elsewhere"),
    ],
)
def test_programs_are_kept_beside_the_run(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    programs: str,
    kept: str | None,
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    before = getattr(jax.config, CACHE)
    with runtime.run_directory(tmp_path, programs=programs):
        found = getattr(jax.config, CACHE)
    assert found == (kept and kept.replace("WORKDIR", str(tmp_path)))
    assert getattr(jax.config, CACHE) == before
