"""What else would do, without a compiler."""

import dataclasses

import pytest

from soraflax import sharding
from soraflax.nn import dit
from soraflax.ops import packing
from soraflax.planning import (
    chip_memory,
    chips,
    estimate,
    report,
    roofline,
    search,
    step_plan,
)
from soraflax.planning import workload as workload_lib
from soraflax.train import denoising, loop, optimizer

GIB = chips.GIB
TOPOLOGY = chips.parse("v5p:2x2x4")
MESH = {"data": 1, "fsdp": 16, "context": 1, "tensor": 1}


def workload(**changes) -> workload_lib.Workload:
    base = workload_lib.Workload(
        model=dit.VARIANTS["wan2_1_t2v_1_3b"],
        loss=denoising.DenoisingConfig(),
        optimizer=optimizer.OptimizerConfig(),
        train=loop.TrainConfig(steps=10),
        row=packing.RowShape(32_768, 1024, 2, 128),
        rows=16,
        clip=16_384,
        mesh=sharding.MeshConfig(),
    )
    return workload_lib.with_tpu_attention(dataclasses.replace(base, **changes))


def made(**changes) -> step_plan.StepPlan:
    """A plan that fits, as if it had been compiled."""
    base = step_plan.StepPlan(
        topology=TOPOLOGY.name,
        slices=1,
        chips=16,
        devices=16,
        mesh=MESH,
        rows=16,
        row_tokens=32_768,
        clip=16_384,
        remat="full",
        accumulate=1,
        memory=chip_memory.DeviceMemory(
            *[GIB] * 5, peak=5 * GIB, host=0, capacity=95 * GIB
        ),
        needed=5 * GIB,
        capacity=95 * GIB,
        model_flops=10**15,
        executed_flops=1e14,
        hbm_bytes=1e12,
        time=roofline.StepTime(1.0, 0.5, 0.2, 0.1),
        utilisation=0.5,
        tokens_per_second=1e5,
    )
    return dataclasses.replace(base, **changes)


TIGHT = made(needed=90 * GIB)


def test_ninety_percent_of_the_memory_is_full():
    assert made(needed=int(0.9 * 95 * GIB)).fits
    assert not made(needed=int(0.91 * 95 * GIB)).fits
    assert not made(memory=None, needed=1).fits


def test_what_fits_comes_first_then_what_is_fastest():
    slow, fast = made(tokens_per_second=1.0), made(tokens_per_second=2.0)
    large = made(needed=99 * GIB, tokens_per_second=9.0)
    assert sorted([large, slow, fast], key=search.sort_key) == [fast, slow, large]


def test_candidates_are_legal_and_differ_from_what_was_asked_for():
    asked = workload()
    ranked = search.rank(asked, TOPOLOGY, first=made())
    assert len(ranked) > 10
    rates = [candidate.rate for candidate in ranked]
    assert rates == sorted(rates, reverse=True)
    for candidate in ranked:
        other, mesh = candidate.workload, candidate.workload.mesh
        assert other.rows % (mesh.data * mesh.fsdp) == 0
        assert other.model.heads % mesh.tensor == 0
        assert mesh.data * mesh.fsdp * mesh.context * mesh.tensor == 16
    same = [
        c.workload
        for c in ranked
        if c.workload.mesh == sharding.MeshConfig(**MESH) and c.workload.rows == 16
    ]
    assert "full" not in [other.model.remat for other in same]


def test_where_it_does_not_fit_the_fewest_changes_come_first():
    ranked = search.rank(workload(), TOPOLOGY, first=TIGHT)
    counts = [search.count_changes(TIGHT, candidate.workload) for candidate in ranked]
    assert counts == sorted(counts) and len(set(counts)) > 2
    for count in set(counts):
        same = zip(counts, ranked, strict=True)
        rates = [candidate.rate for n, candidate in same if n == count]
        assert rates == sorted(rates, reverse=True)
    large = made(rows=64, needed=120 * GIB)
    fewer = search.rank(workload(rows=64), TOPOLOGY, first=large)[0].workload
    assert fewer.rows < 64 and fewer.model.remat == "full"
    assert dataclasses.asdict(fewer.mesh) == MESH


def test_slices_are_joined_by_data_alone():
    topology = chips.parse("v5p:2x2x4", slices=2)
    sizes = list(search.meshes(workload(), topology))
    assert sizes and all(s["data"] == 2 for s in sizes)


def test_a_calibrated_estimate_gives_back_what_it_was_calibrated_on():
    own = estimate.estimate_step(workload(), MESH, topology=TOPOLOGY)
    again = estimate.calibrate(own, own, memory=7.0 * GIB, products=3.0)
    assert (again.memory, again.products) == (7.0 * GIB, 3.0)


def test_more_remat_takes_less_memory_and_more_time():
    def guess(remat: str) -> estimate.StepEstimate:
        model = dataclasses.replace(workload().model, remat=remat)
        return estimate.estimate_step(workload(model=model), MESH, topology=TOPOLOGY)

    none, attention, full = guess("none"), guess("attention"), guess("full")
    assert none.memory > attention.memory > full.memory
    assert none.products < attention.products < full.products


def test_trials_are_compiled_in_order_and_no_more_of_them():
    ranked = search.rank(workload(), TOPOLOGY, first=TIGHT)
    asked: list[workload_lib.Workload] = []

    def plan(other: workload_lib.Workload) -> step_plan.StepPlan:
        asked.append(other)
        return made(remat=other.model.remat, tokens_per_second=float(len(asked)))

    found = search.compile_best(ranked, TIGHT, trials=3, plan=plan)
    assert asked == [candidate.workload for candidate in ranked[:3]]
    assert [p.tokens_per_second for p in found] == [3.0, 2.0, 1.0, 1e5]


def test_advice_names_the_smallest_change_that_fits():
    both = made(remat="dots", rows=32, tokens_per_second=3.0)
    one = made(remat="dots", tokens_per_second=2.0)
    said = search.advice(TIGHT, [both, one, TIGHT])
    assert said == "the smallest change that fits: model.remat=dots"
    tried = [made(needed=91 * GIB), TIGHT]
    assert "nothing that was tried fits" in search.advice(TIGHT, tried)
    alone = "no other candidate was estimated to fit"
    assert search.advice(TIGHT, [TIGHT]) == alone
    fast = made(mesh=MESH | {"fsdp": 8, "context": 2}, tokens_per_second=2e5)
    said = search.advice(made(), [fast, made()])
    assert said == "2.00 times the tokens a second: mesh.fsdp=8, mesh.context=2"


def test_the_table_says_what_the_plan_does():
    text = report.table(made())
    for part in ("v5p:2x2x4: 16 chips", "5.00 GiB", "5 % of 95.00 GiB: fits", "0.500"):
        assert part in text
    assert "does not fit; needs 99.00 GiB" in report.table(
        made(memory=None, time=None, needed=99 * GIB)
    )
    silent = report.table(made(memory=None, time=None, needed=0))
    assert "does not fit; needs more than it has, 95.00 GiB" in silent
    assert len(report.comparison([made(), TIGHT]).splitlines()) == 3


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"clip": 40_000}, "rows of 32768 tokens are shorter than their longest clip"),
        (
            {"row": packing.RowShape(16_400, 1024, 2, 128), "clip": 16_390},
            "use rows of 16512 or clips of 16384",
        ),
        ({"clip": 0}, "use 1 or more"),
        ({"rows": 0}, "rows 0: use 1 or more"),
    ],
)
def test_impossible_rows_are_refused(changes: dict[str, int], complaint: str):
    with pytest.raises(ValueError, match=complaint):
        workload(**changes)


def test_rows_are_full_of_the_longest_clips():
    lengths = workload(clip=10_000).lengths
    assert lengths.tokens == [10_000] * 2 * 16
    assert workload(clip=16_384).lengths.self_pairs == 2 * 16 * 16_384**2
