"""Damaged files of every kind are read or refused; `make fuzz` makes many more."""

from tests.media import fuzz


def test_a_mutation_is_a_function_of_seed_and_number():
    files = [b"abcdefgh" * 50, b"12345678" * 50]
    made = [fuzz.mutate(files, seed=1, index=i) for i in range(50)]
    assert made == [fuzz.mutate(files, seed=1, index=i) for i in range(50)]
    assert len(set(made)) > 45


def test_a_few_hundred_damaged_files():
    outcomes, failures = fuzz.run(300, seed=1)
    assert failures == []
    assert outcomes["refused"] > 50 and outcomes["read"] > 20
