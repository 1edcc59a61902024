"""Tests against PyTorch implementations: only where SORAFLAX_PARITY=1 asks for them."""

import os

collect_ignore_glob = [] if os.environ.get("SORAFLAX_PARITY") == "1" else ["*"]
