"""Text to video.

python examples/generate.py demo/video "a large red circle moves right" --out out.mp4
"""

import argparse
import pathlib
from collections.abc import Sequence

import soraflax


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("text", help="what the video shows")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 64))
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out.mp4"))
    options = parser.parse_args(arguments)

    model = soraflax.load(options.model)
    video = model.generate(
        options.text,
        size=tuple(options.size),
        frames=options.frames,
        seed=options.seed,
        config=soraflax.SamplingConfig(steps=options.steps, guidance=2.0),
    )
    print(video.save(options.out), video)


if __name__ == "__main__":
    main()
