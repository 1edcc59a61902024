"""Content credentials: a signed manifest in a result, and what one says of a file.

A manifest of C2PA (c2pa.org, specification 2) names who signed a file, holds digests of
its bytes, and says how it came to be: here that a trained model created it, in IPTC's
term, and the record (`provenance`) as an assertion of its own. Unlike the record alone
it cannot be changed unnoticed; it can still be left out by whoever copies the frames.

`Signer` writes one and `read` reads one, both by the library c2pa (the extra `c2pa`)
and without a network: no time stamp is fetched, and no list of trusted authorities is
asked, so that `read` says who signed, not whether to believe him.
"""

import dataclasses
import importlib
import io
import json
import mmap
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

import soraflax
from soraflax import media
from soraflax.generation import provenance

# What a manifest can be put in, of the files that results are.
TYPES = {".mp4": "video/mp4", ".gif": "image/gif", ".png": "image/png"}
RECORD = "org.soraflax.record"
_STORE = bytes.fromhex("6332706100110010800000aa00389b71")  # of every manifest store
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


class SigningError(ValueError):
    """A certificate or key that cannot sign, or a file that cannot be signed."""


@dataclasses.dataclass(frozen=True)
class Credentials:
    """What a manifest in a file says.

    Attributes:
      signer: who signed, as the certificate names him.
      intact: whether the file and the manifest are as they were signed; None where
        that is not known, for the extra `c2pa` is not installed.
      problems: what is not, in the words of the specification.
      record: what of the manifest is ours, or what it says in place of it.
    """

    signer: str = ""
    intact: bool | None = None
    problems: tuple[str, ...] = ()
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def text(self) -> str:
        """A line for people."""
        if self.intact is None:
            return "not read: pip install 'soraflax[c2pa]'"
        if not self.intact:
            return f"signed by {self.signer}, and changed since"
        return f"signed by {self.signer}, and unchanged since"


@dataclasses.dataclass(frozen=True)
class Signer:
    """Who signs.

    Attributes:
      certificates: PEM, that of the signer first, those that vouch for it after.
      key: PEM of its private key, not encrypted.
      algorithm: of C2PA, by the kind of the key.
    """

    certificates: bytes
    key: bytes
    algorithm: str

    @classmethod
    def load(
        cls, certificates: str | os.PathLike[str], key: str | os.PathLike[str]
    ) -> "Signer":
        """Read both files, and sign an image with them to know that they can.

        Raises:
          SigningError: a file that is missing or holds something else, a key of another
            certificate, or a certificate that may not sign.
          ImportError: the extra `c2pa` is not installed.
        """
        importlib.import_module("c2pa")
        chain, secret = _pem(certificates, "a certificate"), _pem(key, "a private key")
        signer = cls(
            chain, secret, _algorithm(chain, secret, named=(certificates, key))
        )
        picture = io.BytesIO()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture, "png")
        picture.seek(0)
        try:
            signer._write(picture, io.BytesIO(), kind=TYPES[".png"], record={})
        except SigningError as error:
            raise SigningError(f"{os.fspath(certificates)}: {error}") from error
        return signer

    def sign(
        self, path: str | os.PathLike[str], record: Mapping[str, Any] | None = None
    ) -> None:
        """Put a manifest into a file, which is replaced whole or not at all.

        Args:
          path: an mp4, gif or png.
          record: of `provenance`; None for the one in the file.

        Raises:
          SigningError: a file of another kind, or one that cannot be signed.
          MediaError: it cannot be read.
        """
        path = pathlib.Path(path)
        check_kind(path)
        record = media.read_metadata(path) if record is None else record
        draft = path.with_name(f".{path.stem}.signed{path.suffix}")
        try:
            with open(path, "rb") as source, open(draft, "w+b") as target:
                kind = TYPES[path.suffix.lower()]
                self._write(source, target, kind=kind, record=record)
            draft.replace(path)
        except SigningError as error:
            raise SigningError(f"{path}: {error}") from error
        finally:
            draft.unlink(missing_ok=True)

    def _write(
        self, source: Any, target: Any, *, kind: str, record: Mapping[str, Any]
    ) -> None:
        c2pa = importlib.import_module("c2pa")
        try:
            signer = c2pa.Signer.from_info(
                c2pa.C2paSignerInfo(
                    self.algorithm, self.certificates, self.key, ta_url=None
                )
            )
            builder = c2pa.Builder(json.dumps(_manifest(record)))
            builder.sign(signer, kind, source, target)
        except c2pa.C2paError as error:
            raise SigningError(f"cannot be signed with ({error})") from error


def check_kind(path: pathlib.Path) -> None:
    """Refuse a result of a kind that holds no manifest.

    Raises:
      SigningError: naming those that do.
    """
    if path.suffix.lower() not in TYPES:
        raise SigningError(
            f"{path}: {path.suffix or 'no suffix'} holds no content credentials: "
            f"{', '.join(TYPES)}"
        )


def read(path: str | os.PathLike[str]) -> Credentials | None:
    """What the manifest in a file says; None where there is none.

    Raises:
      MediaError: the file cannot be read.
    """
    path = pathlib.Path(path)
    if not _has_store(path):
        return None
    try:
        c2pa = importlib.import_module("c2pa")
    except ImportError:
        return Credentials()
    try:
        reader = c2pa.Reader(str(path))
        manifest = reader.get_active_manifest() or {}
        results = reader.get_validation_results() or {}
    except c2pa.C2paError as error:
        return Credentials("nobody who can be named", False, (str(error),))
    failures = results.get("activeManifest", {}).get("failure", [])
    told = [f["code"] for f in failures if f["code"] != "signingCredential.untrusted"]
    signature = manifest.get("signature_info", {})
    names = [signature.get(key) for key in ("common_name", "issuer")]
    return Credentials(
        signer=", ".join(name for name in names if name) or "an unnamed certificate",
        intact=not told and reader.get_validation_state() in ("Valid", "Trusted"),
        problems=tuple(told),
        record=_record(manifest),
    )


def _manifest(record: Mapping[str, Any]) -> dict[str, Any]:
    source = record.get("digitalSourceType", provenance.SOURCE_TYPE)
    created = {"action": "c2pa.created", "digitalSourceType": source}
    maker = {"name": provenance.GENERATOR, "version": soraflax.__version__}
    return {
        "claim_generator_info": [maker],
        "title": str(record.get("prompt", "")) or provenance.GENERATOR,
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": [created]}},
            # As a text: c2pa takes lists of small numbers for bytes.
            {"label": RECORD, "data": {"json": json.dumps(record)}},
        ],
    }


def _record(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Ours, or that a model of others made the file; empty where none did."""
    assertions = manifest.get("assertions", [])
    for assertion in assertions:
        if assertion.get("label") == RECORD:
            record = _parsed(assertion.get("data"))
            if record.get("generated"):
                return record
    actions = [
        action
        for assertion in assertions
        if str(assertion.get("label")).startswith("c2pa.actions")
        for action in assertion.get("data", {}).get("actions", [])
    ]
    kinds = [str(action.get("digitalSourceType", "")) for action in actions]
    kinds = [kind for kind in kinds if kind.lower().endswith("trainedalgorithmicmedia")]
    if not kinds:
        return {}
    (maker, *_) = manifest.get("claim_generator_info") or [{"name": "another program"}]
    named = {"generator": maker.get("name"), "version": maker.get("version", "")}
    return named | {"generated": True, "digitalSourceType": kinds[0]}


def _parsed(data: Any) -> dict[str, Any]:
    try:
        record = json.loads(data["json"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _has_store(path: pathlib.Path) -> bool:
    """Whether the bytes of a file hold what begins every store of manifests."""
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return data.find(_STORE) >= 0
    except OSError as error:
        raise media.MediaError(f"{path}: {error.strerror or error}") from error


def _pem(path: str | os.PathLike[str], what: str) -> bytes:
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise SigningError(f"{os.fspath(path)}: {error.strerror or error}") from error
    if b"-----BEGIN" not in data:
        raise SigningError(f"{os.fspath(path)}: holds no {what.split()[-1]} in PEM")
    return data


def _algorithm(chain: bytes, secret: bytes, *, named: tuple[Any, Any]) -> str:
    """The algorithm of a private key, which must be the first certificate's."""
    x509 = importlib.import_module("cryptography.x509")
    formats = importlib.import_module("cryptography.hazmat.primitives.serialization")
    certificate, key = (os.fspath(path) for path in named)
    try:
        public = x509.load_pem_x509_certificates(chain)[0].public_key()
    except ValueError as error:
        raise SigningError(f"{certificate}: holds no certificate in PEM") from error
    try:
        private = formats.load_pem_private_key(secret, password=None)
    except (ValueError, TypeError) as error:
        raise SigningError(
            f"{key}: holds no private key in PEM that is not encrypted"
        ) from error
    if private.public_key() != public:
        raise SigningError(f"{key}: the key of another certificate than {certificate}")
    kind = type(private).__name__
    if kind == "ECPrivateKey" and private.curve.name in _CURVES:
        return _CURVES[private.curve.name]
    others = {"Ed25519PrivateKey": "ed25519", "RSAPrivateKey": "ps256"}
    if kind not in others:
        raise SigningError(f"{key}: a key that C2PA does not take: use ES256 (P-256)")
    return others[kind]
