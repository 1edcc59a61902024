"""Clips and latents as a torch DataLoader reads them: by PyAV, and a file for each."""

import importlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

Size = tuple[int, int, int]


class Clips(torch.utils.data.Dataset):  # pyright: ignore[reportMissingTypeArgument]
    """Encoded clips, decoded whole and resized to `(frames, height, width)`."""

    def __init__(self, clips: Sequence[bytes], size: Size) -> None:
        self.clips, self.size = clips, size

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Any:
        frames, height, width = self.size
        pictures = []
        container: Any
        with av.open(io.BytesIO(self.clips[index])) as container:
            for picture in container.decode(video=0):
                pictures.append(picture.to_ndarray(format="rgb24"))
                if len(pictures) == frames:
                    break
        video = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        return torch.nn.functional.interpolate(
            video, (height, width), mode="bicubic", antialias=True
        )


def missing_torchcodec() -> str | None:
    """Why torchcodec cannot be used, in a line; None where it can."""
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError) as error:  # FFmpeg or torch differ
        return f"torchcodec is not installed or does not load: {error}".partition("\n")[
            0
        ]
    return None


class TorchcodecClips(Clips):
    """The same clips, decoded by torchcodec; one thread, as each of the others has."""

    def __getitem__(self, index: int) -> Any:
        decoders: Any = importlib.import_module("torchcodec.decoders")
        frames, height, width = self.size
        decoder = decoders.VideoDecoder(
            self.clips[index], num_ffmpeg_threads=1, seek_mode="approximate"
        )
        return torch.nn.functional.interpolate(
            decoder[:frames], (height, width), mode="bicubic", antialias=True
        )


class Latents(torch.utils.data.Dataset):  # pyright: ignore[reportMissingTypeArgument]
    """Latents that lie in a file each, as `torch.save` writes them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return torch.load(self.paths[index], weights_only=True)


def save_latents(folder: Path, arrays: Sequence[np.ndarray]) -> list[Path]:
    """A file for each array."""
    paths = []
    for number, array in enumerate(arrays):
        paths.append(folder / f"{number:06d}.pt")
        torch.save({"latent": torch.from_numpy(np.array(array))}, paths[-1])
    return paths


def items(dataset: Any, *, workers: int) -> Iterator[Any]:
    """Every item, shuffled, through a DataLoader of so many worker processes."""
    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        shuffle=True,
        num_workers=workers,
        persistent_workers=False,
    )
    yield from loader
