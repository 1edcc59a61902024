"""From a folder of clips and captions to a model that generates.

python examples/train_on_your_clips.py CLIPS --out trained

The tiny size is done in minutes and shows the way; `--size small` trains what
`make demo` trains. The same as commands: docs/training.md.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import soraflax
from data_pipelines import prepare
from experiments.configs import autoencoder_small, video_small
from experiments.stages.autoencoder import stage as autoencoder
from experiments.stages.video import stage as video


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=pathlib.Path, help="a folder; captions in it")
    parser.add_argument("--size", choices=("tiny", "small"), default="tiny")
    parser.add_argument("--text", default="a hand", help="what is then generated")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("trained"))
    options = parser.parse_args(arguments)
    out = options.out

    # 1. One record per clip; DATASET/report.jsonl says what became of every file.
    prepare.prepare_folder(options.clips, out / "dataset", overwrite=True)

    # 2. The autoencoder, on crops.
    config: Any = autoencoder_small.get_config(options.size)
    config.data.path = str(out / "dataset")
    autoencoder.run(config, out / "autoencoder")

    # 3. The transformer, on packed rows of its latents.
    config = video_small.get_config(options.size)
    config.data.path = str(out / "dataset")
    config.autoencoder = str(out / "autoencoder")
    video.run(config, out / "video")

    # 4. OUT/video/model is all that generation needs.
    model = soraflax.load(out / "video")
    made = model.generate(options.text, size=(64, 64), frames=5)
    print(made.save(out / "generated.mp4"), made)


if __name__ == "__main__":
    main()
