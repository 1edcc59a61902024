"""The benchmark compares decoding of the same captions."""

import json

from experiments.benchmarks import decoding


def test_both_write_the_same_captions(capsys):
    words = ["--variant", "tiny", "--tokens", "6", "--clips", "2"]
    assert decoding.main([*words, "--repeats", "1", "--least", "0"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["same_captions"] and line["ok"] and line["tokens"] == 6
    assert {*line["seconds"]} == {"cache", "recompute"} and line["ratio"] > 0
