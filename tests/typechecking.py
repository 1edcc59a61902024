"""The type checker that `conftest.py` imposes on the packages under test."""

import beartype

# As type checkers have it, an int passes for a float (PEP 484).
check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
