import json

import pytest

from experiments.benchmarks import text_encoder


def test_figures_are_ratios_of_their_own_times():
    config = text_encoder.sizes(width=16, depth=1)
    line = text_encoder.packed_attention(config, caption=64, rows=1, repeats=1)
    seconds = line["seconds"]
    assert line["blocks over reference at 512"] == pytest.approx(
        seconds["blocks 512"] / seconds["reference 512"], rel=0.2, abs=0.01
    )
    json.dumps(line)


def test_sizes_are_those_of_umt5_in_small():
    config = text_encoder.sizes(width=4096, depth=24)
    assert (config.heads, config.head_size, config.mlp) == (64, 64, 10240)


def test_help_needs_no_work(capsys):
    with pytest.raises(SystemExit) as stop:
        text_encoder.main(["--help"])
    assert stop.value.code == 0 and "--captions" in capsys.readouterr().out
