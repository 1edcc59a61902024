"""Text features at rest: every caption through the text encoder once.

    FEATURES/dataset.json   digests of the encoder and of its vocabulary, dtype, width
    FEATURES/keys.bin       16 bytes of the SHA-256 of each caption, sorted
    FEATURES/NAME/VERSION/  a record per caption, in the order of the keys, unpadded

Captions are those that training reads (`prompts.readable`), each once however many
clips have it, and the empty one, which stands for "no caption". A store says which
encoder and vocabulary made it; features of others are refused (`open_features`).
"""

import bisect
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np
from jaxtyping import Float, Float32

from data_pipelines import latents, mirrors, progress, records, sources
from soraflax import tokenizer
from soraflax.generation import prompts

KIND, KEYS, KEY_BYTES = "text features", "keys.bin", 16
DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
CHUNK = 512  # captions that are encoded before any of them is written


@runtime_checkable
class CaptionEncoder(Protocol):
    """What makes features: `generation.text_features.FeatureEncoder`."""

    width: int
    digest: str
    dtype: str
    tokenizer: tokenizer.Tokenizer

    def encode(
        self, texts: Sequence[str], *, max_length: int, cut: bool
    ) -> list[Float[np.ndarray, "m D"]]: ...


@dataclasses.dataclass(frozen=True)
class FeatureOrigin:
    """Whose features are meant.

    Attributes:
      encoder: digest of the encoder's parameters.
      vocabulary: `Tokenizer.digest` of its vocabulary.
    """

    encoder: str
    vocabulary: str


class FeatureStore:
    """The features of captions, by their text; made by `open_features`.

    Attributes:
      path: of the store.
      origin: encoder and vocabulary that made them.
      width: D.
      max_length: most tokens of a caption; longer ones were cut.
    """

    def __init__(self, path: str | Path, info: Mapping[str, Any]) -> None:
        self.path = path
        self.origin = _origin(info)
        self.width = int(info["width"])
        self.max_length = int(info["max_length"])
        self._dtype = DTYPES[info["dtype"]]
        self._records = records.RecordDataset(
            records.open_source(path, "train"),
            info,
            parse=self._parse,
            reopen=functools.partial(records.reopen_source, path, "train"),
        )
        file = mirrors.file(path, KEYS)
        keys = file.read_bytes() if file.is_file() else b""
        if hashlib.sha256(keys).hexdigest() != info["keys"]:
            name = mirrors.named(path, KEYS)
            raise records.DatasetError(f"{name}: damaged; embed again")
        self._keys = keys

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, text: str) -> Float32[np.ndarray, "m D"]:
        """Features of a caption, unpadded.

        Raises:
          DatasetError: it was not embedded.
        """
        index = self._index(text)
        if index is not None:
            return self._records[index]
        start = text if len(text) <= 40 else text[:37] + "..."
        raise records.DatasetError(
            f"{self.path}: has no features of the caption {start!r}; embed the dataset "
            "that it is in: python -m data_pipelines.embed"
        )

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and self._index(text) is not None

    def _index(self, text: str) -> int | None:
        """That of a caption's features; None where it was not embedded."""
        key = caption_key(text)
        index = bisect.bisect_left(range(len(self)), key, key=self._key)
        return index if self._key(index) == key else None

    def _key(self, index: int) -> bytes:
        return self._keys[index * KEY_BYTES : (index + 1) * KEY_BYTES]

    def _parse(self, example: Mapping[str, Any]) -> Float32[np.ndarray, "m D"]:
        flat = np.frombuffer(bytes(example["features"]), self._dtype)
        return flat.reshape(-1, self.width).astype(np.float32)


def caption_key(text: str) -> bytes:
    """Of a caption, as it stands in `keys.bin`."""
    return hashlib.sha256(text.encode()).digest()[:KEY_BYTES]


def open_features(
    path: str | Path, *, origin: FeatureOrigin | None = None
) -> FeatureStore:
    """Open the features that `embed` wrote.

    Args:
      path: a FEATURES directory.
      origin: encoder and vocabulary that they must come from; None for any.

    Raises:
      DatasetError: no features there, damaged ones, or those of another encoder or
        vocabulary.
    """
    if not mirrors.folder(path).is_dir():
        raise records.DatasetError(
            f"{mirrors.named(path)}: no such features; make them with `python -m "
            "data_pipelines.embed --dataset DATASET --text-encoder TEXT --output "
            f"{mirrors.named(path)}`"
        )
    info = records.read_info(path)
    if info.get("kind") != KIND:
        raise records.DatasetError(f"{path}: holds {info.get('kind')}, not {KIND}")
    stored = _origin(info)
    for name in ("encoder", "vocabulary") if origin is not None else ():
        found, wanted = getattr(stored, name), getattr(origin, name)
        if found != wanted:
            raise records.DatasetError(
                f"{path}: features of {name} {found[:12]}, but {wanted[:12]} is in "
                "use; embed the captions again with this text encoder"
            )
    return FeatureStore(path, info)


def _origin(info: Mapping[str, Any]) -> FeatureOrigin:
    return FeatureOrigin(info["encoder"]["digest"], info["vocabulary"]["digest"])


@dataclasses.dataclass(frozen=True)
class FeatureReader:
    """Captions to features, as rows hold them: `encode` of `pipeline.make_dataset`.

    Attributes:
      store: the features of all captions.
      damaged: captions whose features could not be read.
    """

    store: FeatureStore
    damaged: sources.DamageCount = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        count = sources.DamageCount(sources.max_damaged(len(self.store)))
        object.__setattr__(self, "damaged", count)

    def __call__(self, text: str, length: int) -> Float32[np.ndarray, "{length} D"]:
        """Features of a caption, with zeros after them up to `length`.

        The transformer attends to the zeros too, as Wan's do (arXiv:2503.20314).

        Raises:
          DamagedRecordError: the features cannot be read; whoever asked takes another
            clip. It is said once, and counted.
          DatasetError: the caption was not embedded, too many cannot be read, or those
            of the empty one, for which no other stands.
          ValueError: it has more features than `length`.
        """
        features = self._read(text)
        if len(features) > length:
            raise ValueError(
                f"{self.store.path}: features of up to {self.store.max_length} tokens; "
                f"captions of {length} would be cut: use {self.store.max_length}"
            )
        return np.pad(features, ((0, length - len(features)), (0, 0)))

    def _read(self, text: str) -> Float32[np.ndarray, "m D"]:
        if text in self.damaged:  # which was tried for seconds already
            raise records.DamagedRecordError(f"{self.store.path}: damaged")
        try:
            return self.store[text]
        except records.DamagedRecordError as error:
            if not text:
                raise records.DatasetError(
                    f"{error}: the features of the empty caption; embed again"
                ) from error
            self.damaged.add(text, error, then="clips that draw it are passed over")
            raise


def embed(
    datasets: Sequence[str | Path],
    output: str | Path,
    *,
    encoder: CaptionEncoder,
    max_length: int = 512,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Embed all captions of datasets; all or nothing is written.

    Args:
      datasets: DATASET directories of clips or of latents.
      output: the new directory.
      encoder: what makes the features, in whose dtype they are stored.
      max_length: most tokens of a caption; longer ones are cut, and reported.
      overwrite: replace the features at `output`.

    Returns:
      The contents of dataset.json.

    Raises:
      DatasetError: a dataset cannot be read, or `output` is in the way.
    """
    from data_pipelines.builders import feature_records as builder

    if max_length < 1:
        raise ValueError(f"max_length {max_length}: use 1 or more")
    records.check_output(output, overwrite=overwrite)
    texts = dict(sorted((caption_key(t), t) for t in read_captions(datasets)))
    lengths = _Lengths(max_length)
    with (
        progress.bar(total=len(texts), what="features", unit="caption") as bar,
        records.publish(output, overwrite=overwrite) as root,
    ):
        examples = _examples(list(texts.values()), encoder, lengths=lengths, bar=bar)
        directory = builder.TextFeatures(data_dir=root, examples=examples).write()
        keys = b"".join(texts)
        (root / KEYS).write_bytes(keys)
        return records.write_metadata(
            root,
            directory,
            info={
                **_provenance(datasets, encoder),
                "max_length": max_length,
                "keys": hashlib.sha256(keys).hexdigest(),
                "tokens": lengths.tokens,
                "cut": len(lengths.cut),
            },
            report=lengths.cut,
        )


def _provenance(
    datasets: Sequence[str | Path], encoder: CaptionEncoder
) -> dict[str, Any]:
    """Entries of dataset.json about the captions, and what made their features."""
    return {
        "kind": KIND,
        "name": "text features",
        "sources": [
            {"path": str(path), "digest": records.dataset_digest(path)}
            for path in datasets
        ],
        "encoder": {"digest": encoder.digest},
        "vocabulary": {"digest": encoder.tokenizer.digest},
        "dtype": encoder.dtype,
        "width": encoder.width,
    }


def read_captions(datasets: Iterable[str | Path]) -> Iterator[str]:
    """Every caption of datasets, as training reads it, and the empty one.

    Raises:
      DatasetError: a dataset cannot be read.
    """
    yield ""
    for path in datasets:
        info = records.read_info(path)
        kinds = {"clips": records.open_dataset, "latents": latents.open_latents}
        if info.get("kind") not in kinds:
            raise records.DatasetError(
                f"{path}: holds {info.get('kind')}; captions are in clips or latents"
            )
        for split in (name for name, count in info["splits"].items() if count):
            opened = kinds[info["kind"]](path, split)
            for _, record in sources.readable(opened, range(len(opened))):
                yield from (prompts.readable(t)[0] for t in record.captions.values())


class _Lengths:
    """Tokens of all captions, and a line for each that was cut."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.tokens = 0
        self.cut: list[dict[str, Any]] = []

    def add(self, text: str, *, vocabulary: tokenizer.Tokenizer) -> None:
        encoded = vocabulary.encode_prefix(text, max_length=self.max_length)
        self.tokens += len(encoded.ids)
        if encoded.dropped:
            self.cut.append(
                {"input": text[:200], "outcome": "cut", "dropped": encoded.dropped}
            )


def _examples(
    texts: Sequence[str], encoder: CaptionEncoder, *, lengths: _Lengths, bar: Any
) -> Iterator[dict[str, Any]]:
    dtype = DTYPES[encoder.dtype]
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        found = encoder.encode(chunk, max_length=lengths.max_length, cut=True)
        for text, features in zip(chunk, found, strict=True):
            _check_finite(features, text)
            lengths.add(text, vocabulary=encoder.tokenizer)
            stored = np.ascontiguousarray(features.astype(dtype))
            yield {"text": text, "features": stored.tobytes()}
        bar.update(len(chunk))


def _check_finite(features: Float[np.ndarray, "m D"], text: str) -> None:
    if not np.isfinite(features).all():
        raise ValueError(
            f"features of {text[:40]!r} are not finite: encode in float32, or the "
            "encoder's parameters are broken"
        )
