"""The captioner that the stage leaves, complete for captioning."""

from typing import Any

from data_pipelines import latents, pipeline
from experiments.stages import runtime
from experiments.stages.captioner import config as stage_config
from experiments.stages.video import data as data_lib
from soraflax import buckets, tokenizer
from soraflax.nn import autoencoder
from soraflax.pretrained import captioners


def export(
    config: stage_config.CaptionerRunConfig,
    data: pipeline.PackedDataConfig,
    *,
    encoder: data_lib.TrainedEncoder,
    vocabulary: tokenizer.Tokenizer,
    params: Any,
    result: dict[str, float],
    workdir: buckets.Folder,
) -> None:
    """Write `workdir/model`: captioner, autoencoder, vocabulary, statistics.

    All processes call it; `params` stay on the mesh.
    """
    source = latents.open_latents(data.path, data.split)
    std = pipeline.token_deviation(source.std, data.deviation)
    time, height, width = config.model.patch
    cells = max(t * h * w for t, h, w, _ in source.shapes)
    frames = max(shape[0] for shape in source.shapes)
    grid = source.info["grid"]
    model_config = captioners.CaptionerModelConfig(
        captioner=config.model,
        statistics=autoencoder.LatentStatistics(
            tuple(source.mean.tolist()), tuple(std.tolist())
        ),
        autoencoder=encoder.model.encoder_digest,
        text_length=data.captions.max_length,
        reference_fps=data.reference_fps,
        max_tokens=cells // (time * height * width),
        max_frames=1 + grid["temporal_ratio"] * (frames - 1),
    )
    captioners.save_captioner(
        workdir / "model",
        runtime.heeding_signals(params),
        config=model_config,
        vocabulary=vocabulary,
        autoencoder_dir=encoder.directory,
        metadata={"validation": result},
    )
