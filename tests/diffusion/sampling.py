"""Samplers called as tests find it handy."""

import jax

from soraflax.diffusion import samplers


def sample(sampler, predict, *, levels, process, x=None, state=None, **options):
    """`samplers.sample` from data, or from a state, of a model without aux output."""
    if state is None:
        assert x is not None
        state = samplers.init(x, jax.tree.map(lambda a: a[0], levels))
    return samplers.sample(
        sampler,
        state,
        process=process,
        denoise=lambda x, level: (predict(x, level), None),
        levels=levels,
        **options,
    )
