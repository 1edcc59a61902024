"""Wan's pipelines in diffusers with random weights, and the videos they judge.

A pipeline's folder is written from seeds, without diffusers. `wan_pipeline.npz` holds
what diffusers made of each: the latent after the last step, and every fourth pixel of
the video of it. Make it again when a case is added:

    pip install -e .[parity] && python -m tests.golden.wan_pipeline
"""

import dataclasses
import json
import pathlib
import tempfile
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from soraflax import tokenizer
from soraflax.generation import sampling
from soraflax.ops import patch
from soraflax.pretrained import abstract
from soraflax.pretrained import io as model_io
from soraflax.weights import tensor_map, umt5
from soraflax.weights.wan import autoencoder, pipeline, scheduler, transformer
from tests.golden import text_encoder as text_judge
from tests.golden import wan_autoencoder as vae_judge
from tests.golden import wan_transformer as judge

GOLDEN = pathlib.Path(__file__).with_suffix(".npz")
PROMPT, NEGATIVE = "a large red circle  moves right and &#115;tops", "a blue square"
STEPS, SEED = 10, 7
TEXT: dict[str, Any] = {
    "model_type": "umt5",
    "vocab_size": 1040,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}
UNIPC: dict[str, Any] = {
    "_class_name": scheduler.UNIPC,
    "use_flow_sigmas": True,
    "prediction_type": "flow_prediction",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A pipeline, and what is asked of it.

    Attributes:
      family: of its parts: 'wan2.1' or 'wan2.2'.
      autoencoder: family of its autoencoder.
      scheduler: fields of its scheduler.
      index: fields of `model_index.json`.
      guidance, low_guidance: guidance scales.
      size: width and height.
      image: whether the first frame is given.
    """

    family: str
    autoencoder: str
    scheduler: dict[str, Any]
    index: dict[str, Any] = dataclasses.field(default_factory=dict)
    guidance: float = 5.0
    low_guidance: float | None = None
    size: tuple[int, int] = (48, 32)
    frames: int = 9
    image: bool = False

    @property
    def convert_from(self) -> str:
        """What `soraflax convert --from` says of it."""
        plain = self.autoencoder == "wan2.1" and "boundary_ratio" not in self.index
        return "wan2.1" if plain else "wan2.2"

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        ratio = vae_judge.SMALL[self.autoencoder].get("scale_factor_spatial", 8)
        width, height = self.size
        return 1 + (self.frames - 1) // 4, height // ratio, width // ratio, 4


TEXT_OR_IMAGE = Case(
    "wan2.2",
    "wan2.2",
    UNIPC | {"flow_shift": 5.0},
    {"expand_timesteps": True},
    size=(64, 96),
)
CASES = {
    "2.1": Case("wan2.1", "wan2.1", UNIPC | {"flow_shift": 3.0}),
    "2.1 Euler": Case(
        "wan2.1", "wan2.1", {"_class_name": scheduler.EULER, "shift": 3.0}
    ),
    "5B": TEXT_OR_IMAGE,
    "5B image": dataclasses.replace(TEXT_OR_IMAGE, image=True),
    "A14B": Case(
        "wan2.2",
        "wan2.1",
        UNIPC | {"flow_shift": 4.0},
        {"boundary_ratio": 0.875},
        guidance=4.0,
        low_guidance=3.0,
    ),
}


def transformer_sizes(case: Case) -> dict[str, Any]:
    return judge.SMALL[case.family] | {"in_channels": 4, "out_channels": 4}


def _save(folder: pathlib.Path, stem: str, values: Any, tensors: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values))
    safetensors.numpy.save_file(
        tensors, folder / f"{stem}.safetensors", {"format": "pt"}
    )


def _shapes(entries: Any, shapes: Any) -> dict[str, tuple[int, ...]]:
    like = tensor_map.expected(entries, model_io.flat_shapes(shapes))
    return {name: a.shape for name, a in like.items()}


def write(folder: pathlib.Path, case: Case) -> pathlib.Path:
    """The pipeline's folder, as diffusers would save it."""
    sizes = transformer_sizes(case)
    config = transformer.parse_config(sizes)
    shapes = _shapes(transformer.entries(config), abstract.transformer_shapes(config))
    parts = {"transformer": judge.HIGH}
    if "boundary_ratio" in case.index:
        parts["transformer_2"] = judge.LOW
    for name, seed in parts.items():
        values = {"_class_name": transformer.CLASS} | sizes
        tensors = judge.tensors(shapes, seed=seed)
        _save(folder / name, transformer.STEM, values, tensors)
    values = {"_class_name": autoencoder.CLASS}
    values |= vae_judge.config(vae_judge.SMALL[case.autoencoder])
    vae, _ = autoencoder.parse_config(values)
    entries = autoencoder.autoencoder_entries(vae)
    tensors = vae_judge.tensors(_shapes(entries, abstract.autoencoder_shapes(vae)))
    _save(folder / "vae", autoencoder.STEM, values, tensors)
    text = umt5.parse_config(TEXT)
    shapes = _shapes(umt5.entries(text), abstract.text_encoder_shapes(text))
    values = umt5.format_config(text)
    _save(folder / "text_encoder", umt5.STEM, values, text_judge.tensors(shapes))
    for name, fields in (
        (f"scheduler/{pipeline.SCHEDULER}", case.scheduler),
        (f"tokenizer/{pipeline.TOKENIZER}", pipeline.tokenizer_config()),
        (pipeline.INDEX, _index(case, parts)),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(fields))
    vocabulary = tokenizer.Tokenizer.embedded()
    vocabulary.save(folder / "tokenizer" / umt5.VOCABULARY)
    return folder


def _index(case: Case, parts: Any) -> dict[str, Any]:
    ours = {name: ["diffusers", transformer.CLASS] for name in parts}
    return (
        {
            "_class_name": "WanPipeline",
            "boundary_ratio": None,
            "expand_timesteps": False,
            "transformer_2": [None, None],
            "scheduler": ["diffusers", case.scheduler["_class_name"]],
            "text_encoder": ["transformers", "UMT5EncoderModel"],
            "tokenizer": ["transformers", "T5Tokenizer"],
            "vae": ["diffusers", autoencoder.CLASS],
        }
        | case.index
        | ours
    )


def image(case: Case) -> np.ndarray:
    """The first frame, uint8 `[H, W, 3]`."""
    width, height = case.size
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (height // 16, width // 16, 3))
    return small.repeat(16, 0).repeat(16, 1).astype(np.uint8)


def noise(case: Case) -> np.ndarray:
    """What sampling starts from with `SEED`, `[t, h, w, z]`."""
    cut = judge.SMALL[case.family].get("patch_size", (1, 2, 2))
    grid = patch.patch_grid(case.latent_shape, cut)
    count, size = int(np.prod(grid)), int(np.prod(cut)) * case.latent_shape[-1]
    tokens = sampling.token_noise(
        jnp.ones((1, count), jnp.int32),
        seeds=jnp.full((1, 2), SEED, jnp.uint32),
        noise_ids=jnp.arange(count, dtype=jnp.int32)[None],
        index=jnp.int32(0),
        size=size,
    )
    return np.asarray(patch.unpatchify(np.asarray(tokens[0]), grid, patch=cut))


def run(pipe: Any, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """What diffusers makes: latent `[t, h, w, z]`, normalised, and video in [0, 1]."""
    import diffusers
    import PIL.Image
    import torch

    start = torch.from_numpy(np.einsum("thwz->zthw", noise(case))[None].copy())
    kept: dict[str, Any] = {}

    def keep(pipe: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept.update(values)
        return {}

    width, height = case.size
    options: dict[str, Any] = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "width": width,
        "height": height,
        "num_frames": case.frames,
        "num_inference_steps": STEPS,
        "guidance_scale": case.guidance,
        "guidance_scale_2": case.low_guidance,
        "latents": start,
        "output_type": "np",
        "callback_on_step_end": keep,
    }
    if case.image:
        from diffusers.pipelines.wan import pipeline_wan_i2v

        if not hasattr(pipeline_wan_i2v, "ftfy"):  # which it takes to be installed
            pipeline_wan_i2v.ftfy = types.SimpleNamespace(fix_text=lambda text: text)
        parts = {k: v for k, v in pipe.components.items() if k != "image_processor"}
        pipe = diffusers.WanImageToVideoPipeline(**parts, expand_timesteps=True)
        options["image"] = PIL.Image.fromarray(image(case))
    pipe.set_progress_bar_config(disable=True)
    video = pipe(**options).frames[0]
    latent = np.einsum("zthw->thwz", kept["latents"][0].numpy())
    return latent, np.asarray(video)


def load(folder: pathlib.Path) -> Any:
    """The pipeline in diffusers."""
    import diffusers

    return diffusers.WanPipeline.from_pretrained(folder)


def main() -> None:
    found = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as place:
            pipe = load(write(pathlib.Path(place) / "folder", case))
            latent, video = run(pipe, case)
        found[f"{name}/latent"] = latent
        found[f"{name}/video"] = video[:, ::4, ::4].astype(np.float16)
    np.savez_compressed(GOLDEN, **found)


if __name__ == "__main__":
    main()
