"""Every task, each given what the ones before it made.

python examples/every_task.py demo/video --out videos
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np

import soraflax


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("--side", type=int, default=64, help="of a frame, in pixels")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("videos"))
    options = parser.parse_args(arguments)

    model, side = soraflax.load(options.model), options.side
    config = soraflax.SamplingConfig(steps=options.steps, guidance=2.0)
    red, blue = "a large red circle moves right", "a small blue square moves up"
    mask = np.zeros((side, side), bool)
    mask[:, side // 2 :] = True  # the right half is generated anew

    videos = {"generate": model.generate(red, size=(side, side), config=config)}
    clip = videos["generate"]
    videos["image"] = model.image(blue, size=(side, side), config=config)
    videos["animate"] = model.animate(videos["image"], blue, config=config)
    videos["extend"] = model.extend(clip, red, config=config)
    videos["before"] = model.extend(clip, direction="backward", config=config)
    videos["loop"] = model.loop(clip, config=config)
    videos["connect"] = model.connect(clip, videos["animate"], config=config)
    videos["edit"] = model.edit(clip, blue, strength=0.7, config=config)
    videos["inpaint"] = model.inpaint(clip, mask, config=config)
    videos["outpaint"] = model.outpaint(clip, (side, 2 * side), config=config)
    videos["upscale"] = model.upscale(clip, (2 * side, 2 * side), config=config)

    options.out.mkdir(parents=True, exist_ok=True)
    for name, video in videos.items():
        suffix = ".png" if len(video) == 1 else ".mp4"
        print(video.save(options.out / f"{name}{suffix}"), video)


if __name__ == "__main__":
    main()
