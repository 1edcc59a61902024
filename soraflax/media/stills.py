"""png, jpg, webp: pictures, and animations of png, webp and avif (Pillow).

A png or a jpg ends where its picture ends: what follows, such as the further pictures
of a multi-picture jpg or the movie of a motion photo, is left out. Colours are those of
sRGB, by the file's colour profile where it has one.
"""

import functools
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from soraflax.media import common, formats, orientation, pixels, source, timeline

KINDS = {
    "png": ("PNG",),
    "jpeg": ("JPEG",),
    "webp": ("WEBP",),
    "avif animation": ("AVIF",),
}
_ORIENTATION = 0x0112
_WEBP_CHUNKS = (
    *(b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP "),
)
# Milliseconds: viewers show frames of no duration, or next to none, for longer.
_SHORTEST, _DEFAULT = 11, 100


def open_still(file: Any, kind: str, *, name: str, max_pixels: int) -> source.Source:
    """A picture, or an animation; kinds are the keys of `KINDS`.

    Raises:
      MediaError: unreadable, or of more than `max_pixels`; while the pictures are
        drawn, damaged or truncated.
    """
    image = _opened(file, kind, name=name, max_pixels=max_pixels)
    width, height = image.size
    common.check_pixels(name, height, width=width, max_pixels=max_pixels)
    indices, seconds = _frames(image, kind, name=name)
    notes: list[str] = []
    if kind == "webp":
        animated, notes = _webp_chunks(file)
        if len(indices) < animated:
            raise common.MediaError(
                f"{name}: damaged: {len(indices)} of {animated} frames are readable"
            )
    fps, order = 1.0, None
    if len(indices) > 1:
        times = np.concatenate([[0.0], np.cumsum(seconds)])
        try:
            fps, order = timeline.constant_rate(times[:-1], last=seconds[-1])
        except ValueError as error:
            raise common.MediaError(f"{name}: {error}") from error
        # Frames come in order, from the first.
        image = _opened(file, kind, name=name, max_pixels=max_pixels)
    if order is not None:
        notes.append(timeline.note(fps))
    return source.Source(
        name=name,
        container=kind.split()[0],
        codec=kind.split()[0],
        size=(width, height),
        stored=len(indices),
        fps=fps,
        order=order,
        pictures=_pictures(image, indices, name=name, notes=notes),
        metadata={"comment": _comment(image)},
        notes=notes,
    )


def orientation_of(data: bytes) -> orientation.Orientation:
    """By the EXIF of a picture's bytes; upright where it has none that is readable."""
    try:
        formats = [name for names in KINDS.values() for name in names]
        with Image().open(io.BytesIO(data), formats=formats) as image:
            return _orientation(image)
    except Exception:  # whatever Pillow raises for damaged files
        return orientation.UPRIGHT


def to_srgb(
    rgb: UInt8[np.ndarray, "H W 3"], profile: bytes | None
) -> UInt8[np.ndarray, "H W 3"]:
    """Colours by a profile as colours of sRGB; as they are without a usable one."""
    transform = _transform(profile, "RGB") if profile else None
    if transform is None:
        return rgb
    from PIL import ImageCms

    image = ImageCms.applyTransform(Image().fromarray(rgb), transform)
    return np.asarray(image)


def Image() -> Any:
    """Pillow's module.

    Raises:
      ImportError: it is not installed; the message says what to install.
    """
    try:
        from PIL import Image as module
    except ImportError:
        raise ImportError("images need Pillow: pip install 'soraflax[media]'") from None
    return module


def _opened(file: Any, kind: str, *, name: str, max_pixels: int) -> Any:
    file.seek(0)
    file = _with_clear_canvas(file.read()) if kind == "webp" else file
    try:
        with warnings.catch_warnings():  # of sizes, which are checked by `max_pixels`
            warnings.simplefilter("ignore", Image().DecompressionBombWarning)
            return Image().open(file, formats=KINDS[kind])
    except ImportError:
        raise
    except Image().DecompressionBombError as error:
        raise common.MediaError(
            f"{name}: its frames are more than max_pixels={max_pixels}"
        ) from error
    except Exception as error:  # whatever Pillow raises for damaged files
        raise common.MediaError(f"{name}: no {kind} that can be read") from error


def _webp_chunks(file: Any) -> tuple[int, list[str]]:
    """Number of frames of an animation by its chunks, and what of it is none."""
    length, at, frames, foreign = formats.length(file), 12, 0, 0
    file.seek(4)
    end = min(length, 8 + int.from_bytes(file.read(4), "little"))
    while at + 8 <= end:
        file.seek(at)
        head = file.read(8)
        size = int.from_bytes(head[4:], "little")
        frames += head[:4] == b"ANMF"
        foreign += 0 if head[:4] in _WEBP_CHUNKS else min(8 + size, end - at)
        at += 8 + size + size % 2
    notes = []
    if foreign:
        notes.append(f"{foreign} bytes in it are of no known kind: left out")
    if length > end + end % 2:
        notes.append(f"{length - end} bytes after its end are left out")
    return frames, notes


def _with_clear_canvas(data: bytes) -> io.BytesIO:
    """A webp whose animation Pillow reads with alpha, whether or not frames have any.

    What they do not cover of the canvas is clear, but Pillow makes it black where the
    header tells of no alpha.
    """
    if data[12:16] == b"VP8X" and len(data) > 20 and data[20] & 2:
        data = data[:20] + bytes([data[20] | 0x10]) + data[21:]
    return io.BytesIO(data)


def _frames(image: Any, kind: str, *, name: str) -> tuple[list[int], list[float]]:
    """Indices of frames, less a cover that is shown by other programs, and seconds."""
    try:
        # The further pictures of a jpeg are other views, or the same one in small.
        count = 1 if kind == "jpeg" else getattr(image, "n_frames", 1)
        if count == 1:
            return [0], [1.0]
        skipped = bool(image.info.get("default_image"))
        seconds = []
        for index in range(skipped, count):
            image.seek(index)
            image.load()
            milliseconds = float(image.info.get("duration", 0))
            shown = milliseconds if milliseconds >= _SHORTEST else _DEFAULT
            seconds.append(shown / 1000)
        return list(range(skipped, count)), seconds
    except Exception as error:
        raise _damaged(name, error) from error


def _pictures(
    image: Any, indices: list[int], *, name: str, notes: list[str]
) -> Iterator[source.Picture]:
    try:
        turn = _orientation(image)
        profile = image.info.get("icc_profile")
        for index in indices:
            if len(indices) > 1:
                image.seek(index)
            image.load()
            if index == indices[0] and _transform(profile, _profile_mode(image.mode)):
                notes.append(f"colours by its profile: {_description(profile)}")
            size = turn.size(image.size)
            convert = functools.partial(_convert, image, turn=turn, profile=profile)
            yield source.Picture(size, convert)
    except common.MediaError:
        raise
    except Exception as error:  # whatever Pillow raises for damaged files
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> common.MediaError:
    cause = common.cause(error) or type(error).__name__
    return common.MediaError(f"{name}: truncated or damaged: {cause}")


def _convert(
    image: Any,
    size: source.Size | None,
    *,
    turn: orientation.Orientation,
    profile: bytes | None,
) -> UInt8[np.ndarray, "H W 3"]:
    rgb = _rgb(image, profile)
    if size is not None and turn.size(size) != image.size:
        small = Image().fromarray(rgb).resize(turn.size(size), Image().Resampling.BOX)
        rgb = np.asarray(small)
    return turn.apply(rgb)


def _rgb(image: Any, profile: bytes | None) -> UInt8[np.ndarray, "H W 3"]:
    """RGB over white in the colours of sRGB, not oriented."""
    if image.mode.startswith(("I", "F")):  # more than 8 bits of gray
        gray = np.asarray(image).astype(np.int64).clip(0, 65535)
        return np.repeat(((gray * 255 + 32767) // 65535)[..., None], 3, 2).astype(
            np.uint8
        )
    transform = _transform(profile, _profile_mode(image.mode))
    if image.mode == "CMYK" and transform is not None:
        from PIL import ImageCms

        return np.array(ImageCms.applyTransform(image, transform))
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        colours = to_srgb(np.ascontiguousarray(rgba[..., :3]), profile)
        return pixels.over_white(np.concatenate([colours, rgba[..., 3:]], axis=2))
    return np.array(to_srgb(np.asarray(image.convert("RGB")), profile))


def _profile_mode(mode: str) -> str:
    return "CMYK" if mode == "CMYK" else "RGB"


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes | None, mode: str) -> Any:
    """From a profile to sRGB; None without one, for sRGB itself, or for nonsense."""
    if not profile:
        return None
    from PIL import ImageCms

    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in _description(profile).lower():
            return None
        return ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _description(profile: bytes | None) -> str:
    from PIL import ImageCms

    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        return " ".join(ImageCms.getProfileDescription(own).split())
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "unknown"


def _orientation(image: Any) -> orientation.Orientation:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return orientation.from_exif(image.getexif().get(_ORIENTATION))
    except Exception:  # EXIF that is damaged says nothing of the picture
        return orientation.UPRIGHT


def _comment(image: Any) -> str:
    comment = image.info.get("comment") or ""
    return comment.decode("utf-8", "replace") if isinstance(comment, bytes) else comment
