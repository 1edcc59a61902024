"""`experiments.cache`, a clip a part, of which all but the first of a worker last."""

import sys
import time
from typing import Any

from data_pipelines import latent_parts
from experiments import cache

_encode = latent_parts.CacheJob._encode


def encode_slowly(job: Any, part: latent_parts.Part, **keywords: Any) -> None:
    """As `CacheJob._encode`; five minutes where a part of this worker is done."""
    if getattr(job, "encoded", 0):
        time.sleep(300)
    _encode(job, part, **keywords)
    job.encoded = 1


if __name__ == "__main__":
    latent_parts.PART = 1
    slowly: Any = encode_slowly
    latent_parts.CacheJob._encode = slowly
    sys.exit(cache.main())
