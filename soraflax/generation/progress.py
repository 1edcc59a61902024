"""Who looks on while sampling: a count of steps, and a callback that may stop it."""

import dataclasses
from collections.abc import Callable

import numpy as np

Latents = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Step:
    """What a callback sees after a step of the sampler.

    Attributes:
      done: steps done so far.
      total: steps in all.
      latents: gives what is made so far, the noise taken off: a latent `[t, h, w, z]`
        a job or canvas, in their order.
    """

    done: int
    total: int
    latents: Callable[[], Latents]


# Called with (steps done, steps in all) after every step.
Progress = Callable[[int, int], None]
# Called with a `Step` after every step; True stops sampling, with what is made so far.
Callback = Callable[[Step], bool | None]


class Observer:
    """A callback that passes every step on, and remembers whether to stop.

    Attributes:
      stopped: whether the callback that it passes steps on to has asked to.
    """

    def __init__(
        self, progress: Progress | None = None, callback: Callback | None = None
    ) -> None:
        self._progress, self._callback = progress, callback
        self.stopped = False

    def __call__(self, step: Step) -> bool:
        if self._progress is not None:
            self._progress(step.done, step.total)
        if self._callback is not None and self._callback(step):
            self.stopped = True
        return self.stopped

    def part(
        self,
        number: int,
        count: int,
        *,
        merge: Callable[[Latents], Latents] | None = None,
    ) -> "Observer":
        """An observer of one of several passes, as if all took as many steps.

        Args:
          number, count: of the pass, and of all passes.
          merge: what the callback sees for the latents of the pass.
        """

        def pass_on(step: Step) -> bool:
            def latents() -> Latents:
                return merge(step.latents()) if merge else step.latents()

            done, total = number * step.total + step.done, count * step.total
            return self(Step(done, total, latents))

        return Observer(callback=pass_on)
