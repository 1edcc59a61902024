"""soraflax: video generation with packed diffusion transformers, in JAX and Flax.

    import soraflax

    model = soraflax.load()  # the one that is shipped, or a folder's
    video = model.generate("a large red circle moves right", size=(96, 64), frames=17)
    video.save("out.mp4")

What a user meets first is here; the rooms below hold the rest. A name is loaded when it
is first used: `import soraflax` alone loads neither JAX nor Flax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from soraflax.generation import tasks as tasks
    from soraflax.generation.captioner import Captioner as Captioner
    from soraflax.generation.conditioning import Job as Job
    from soraflax.generation.model import Model as Model
    from soraflax.generation.progress import Step as Step
    from soraflax.generation.prompt_expander import PromptExpander as PromptExpander
    from soraflax.generation.sampling import SamplingConfig as SamplingConfig
    from soraflax.media import Video as Video
    from soraflax.media import read_video as read_video
    from soraflax.nn.autoencoder import Autoencoder as Autoencoder
    from soraflax.nn.autoencoder import AutoencoderConfig as AutoencoderConfig
    from soraflax.nn.dit import DiT as DiT
    from soraflax.nn.dit import DiTConfig as DiTConfig
    from soraflax.ops.packing import Packed as Packed
    from soraflax.ops.packing import RowShape as RowShape
    from soraflax.ops.packing import Segment as Segment
    from soraflax.ops.packing import assemble as assemble
    from soraflax.sharding import make_mesh as make_mesh

__version__ = "0.1.0"

# Where each public name is; the imports above say the same to type checkers.
_HOMES = {
    "Autoencoder": "soraflax.nn.autoencoder",
    "AutoencoderConfig": "soraflax.nn.autoencoder",
    "Captioner": "soraflax.generation.captioner",
    "DiT": "soraflax.nn.dit",
    "DiTConfig": "soraflax.nn.dit",
    "Job": "soraflax.generation.conditioning",
    "Model": "soraflax.generation.model",
    "Packed": "soraflax.ops.packing",
    "PromptExpander": "soraflax.generation.prompt_expander",
    "RowShape": "soraflax.ops.packing",
    "SamplingConfig": "soraflax.generation.sampling",
    "Segment": "soraflax.ops.packing",
    "Step": "soraflax.generation.progress",
    "Video": "soraflax.media",
    "assemble": "soraflax.ops.packing",
    "make_mesh": "soraflax.sharding",
    "read_video": "soraflax.media",
}
_MODULES = {"tasks": "soraflax.generation.tasks"}
__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "Captioner",
    "DiT",
    "DiTConfig",
    "Job",
    "Model",
    "Packed",
    "PromptExpander",
    "RowShape",
    "SamplingConfig",
    "Segment",
    "Step",
    "Video",
    "assemble",
    "load",
    "make_mesh",
    "read_video",
    "tasks",
]


def load(
    folder: "str | os.PathLike[str] | None" = None, *, lora: "Sequence[str]" = ()
) -> "Model":
    """A trained video model.

    Args:
      folder: that training made (VIDEO, such as `demo/video`), its `model/`, or a
        folder that holds just one of them; None for the model shipped with the
        package.
      lora: files of adapters (safetensors of diffusers, PEFT, Wan or kohya) that are
        merged into it, `FILE` or `FILE:SCALE`.

    Raises:
      FileNotFoundError: no model there, or none was shipped.
      ValueError: a damaged model, or one of another kind.
    """
    from soraflax.generation import model

    return model.Model.load(folder, lora=lora)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'soraflax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
