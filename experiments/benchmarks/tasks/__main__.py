"""`python -m experiments.benchmarks.tasks`."""

import sys

from experiments.benchmarks.tasks import run

sys.exit(run.main())
