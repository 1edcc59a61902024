"""Results are signed, and say who signed them and whether they are as they were."""

import datetime
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import oid

from soraflax import media
from soraflax.cli import main
from soraflax.generation import provenance, signing, verification
from tests.generation import tiny

RECORD = {
    "generator": "soraflax",
    "version": "0.1.0",
    "generated": True,
    "digitalSourceType": provenance.SOURCE_TYPE,
    "task": "generate",
    "prompt": "a large red circle",
    "size": [32, 32],
}
KEYS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
}


def certificate(name: str, key: Any, *, issuer: tuple[str, Any], days: int = 2) -> Any:
    """Of a signer; of an authority where it vouches for itself."""
    now, authority = datetime.datetime.now(datetime.UTC), issuer[1] is key

    def named(text: str) -> x509.Name:
        parts = (
            (oid.NameOID.COMMON_NAME, text),
            (oid.NameOID.ORGANIZATION_NAME, "Tests"),
        )
        return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])

    usage = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "encipher_only", "decipher_only"),
        ),
        False,
    )
    signs = {"key_cert_sign": authority, "crl_sign": authority}
    vouching = x509.AuthorityKeyIdentifier.from_issuer_public_key(
        issuer[1].public_key()
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer[0]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=4))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, **signs, **usage), critical=True
        )
        .add_extension(vouching, critical=False)
    )
    if not authority:
        purposes = x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purposes, critical=False)
    plain = isinstance(issuer[1], ed25519.Ed25519PrivateKey)
    return builder.sign(issuer[1], None if plain else hashes.SHA256())


def write(folder: pathlib.Path, *, kind: str = "P-256", days: int = 2) -> list[str]:
    """A chain and a key in PEM."""
    folder.mkdir(exist_ok=True)
    root, key = KEYS["P-256"](), KEYS[kind]()
    chain = [
        certificate("a signer", key, issuer=("an authority", root), days=days),
        certificate("an authority", root, issuer=("an authority", root)),
    ]
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(b"".join(c.public_bytes(pem) for c in chain))
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(pem, form, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    return [str(folder / "cert.pem"), str(folder / "key.pem")]


def save(path: pathlib.Path, record: Any = RECORD) -> pathlib.Path:
    frames = np.zeros((1 if path.suffix == ".png" else 5, 32, 32, 3), np.uint8)
    frames[:, 8:20, 8:20] = (200, 30, 30)
    media.Video(frames, 8.0, record).save(path)
    return path


@pytest.mark.parametrize("suffix", list(signing.TYPES))
def test_a_signed_file_says_who_and_that_it_is_unchanged(
    tmp_path: pathlib.Path, suffix: str
) -> None:
    signer = signing.Signer.load(*write(tmp_path / "who"))
    path = save(tmp_path / f"out{suffix}")
    before = media.read_video(path)
    signer.sign(path)
    after = media.read_video(path)
    np.testing.assert_array_equal(after.frames, before.frames)
    assert after.metadata == before.metadata and not after.notes
    found = verification.verify(path)
    assert found.outcome == "generated" and found.record == RECORD
    credentials = found.credentials
    assert credentials is not None and credentials.record == RECORD
    assert (credentials.signer, credentials.intact) == ("a signer, Tests", True)
    assert "  credentials: signed by a signer, Tests, and unchanged since" in found.text
    assert json.loads(json.dumps(found.values))["credentials"]["intact"] is True
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "who"]


def test_a_changed_file_is_a_conflict(tmp_path: pathlib.Path) -> None:
    path = save(tmp_path / "out.png")
    signing.Signer.load(*write(tmp_path / "who")).sign(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # of the checksum of the end, which readers do not look at
    path.write_bytes(data)
    found = verification.verify(path)
    assert found.outcome == "conflict" and "and changed since" in found.text
    assert any("assertion.dataHash.mismatch" in problem for problem in found.problems)


def test_another_record_than_the_signed_one_is_a_conflict(
    tmp_path: pathlib.Path,
) -> None:
    path = save(tmp_path / "out.mp4")
    other = RECORD | {"prompt": "a dog"}
    signing.Signer.load(*write(tmp_path / "who")).sign(path, other)
    found = verification.verify(path)
    assert found.outcome == "conflict"
    assert found.problems == ("the record that was signed is another",)


def test_a_file_with_credentials_alone_is_known(tmp_path: pathlib.Path) -> None:
    """Ours without its metadata; what others' models made; what none made."""
    signer = signing.Signer.load(*write(tmp_path / "who"))
    path = save(tmp_path / "out.mp4", {})
    signer.sign(path, RECORD)
    assert verification.verify(path).record == RECORD
    path = save(tmp_path / "others.mp4", {})
    signer.sign(path, {"made": "elsewhere"})
    found = verification.verify(path)
    assert found.outcome == "generated"
    assert found.record["digitalSourceType"] == provenance.SOURCE_TYPE
    path = save(tmp_path / "camera.mp4", {})
    camera = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
    signer.sign(path, {"digitalSourceType": camera})
    found = verification.verify(path)
    assert found.outcome == "unknown" and "signed by a signer" in found.text


@pytest.mark.parametrize("kind", list(KEYS))
def test_every_kind_of_key_signs(tmp_path: pathlib.Path, kind: str) -> None:
    path = save(tmp_path / "out.gif")
    signing.Signer.load(*write(tmp_path / "who", kind=kind)).sign(path)
    found = verification.verify(path).credentials
    assert found is not None and found.intact


def test_what_cannot_sign_is_one_line(tmp_path: pathlib.Path) -> None:
    who, other = write(tmp_path / "who"), write(tmp_path / "other")
    old = write(tmp_path / "old", days=-1)
    lone = tmp_path / "lone.pem"
    root = KEYS["P-256"]()
    authority = certificate("alone", root, issuer=("alone", root))
    lone.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    secret = serialization.load_pem_private_key(
        pathlib.Path(who[1]).read_bytes(), password=None
    )
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    noise = tmp_path / "noise.pem"
    noise.write_bytes(b"-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    for pair, message in (
        (("none.pem", who[1]), "none.pem: No such file"),
        ((str(noise), who[1]), "noise.pem: holds no certificate in PEM"),
        ((who[1], who[1]), "key.pem: holds no certificate in PEM"),
        ((who[0], who[0]), "cert.pem: holds no private key in PEM that is not encr"),
        ((who[0], str(locked)), "locked.pem: holds no private key in PEM that is not"),
        ((who[0], other[1]), "the key of another certificate than"),
        (tuple(old), "old/cert.pem: cannot be signed with"),
    ):
        with pytest.raises(signing.SigningError, match=message) as error:
            signing.Signer.load(*pair)
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(signing.SigningError, match=r"mkv holds no content cred.*\.mp4"):
        signing.Signer.load(*who).sign(save(tmp_path / "out.mkv"))


def test_the_command_signs_what_it_makes(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    who = write(tmp_path / "who")
    checkpoint = tiny.save(tmp_path)
    words = ["generate", "a circle", "--checkpoint", str(checkpoint), "--size", "16x16"]
    words += ["--frames", "5", "--steps", "1", "--num-videos", "2", "--sign", *who]
    assert main.main(words) == 0, capsys.readouterr().err
    for number in range(2):
        found = verification.verify(f"out-{number}.mp4")
        assert found.outcome == "generated" and found.credentials is not None
        assert found.credentials.intact and found.credentials.record == found.record
        assert "--sign" not in found.record["command"]
        assert who[1] not in json.dumps(found.record)
    capsys.readouterr()
    assert main.main(["verify", "out-0.mp4"]) == 0
    assert "signed by a signer, Tests, and unchanged" in capsys.readouterr().out
    for more, message in (
        (["--sign", who[0]], "expected 2 arguments"),
        (["--sign", who[0], who[0]], "holds no private key"),
        (
            ["--sign", *who, "--out", "x.mkv"],
            "x.mkv: .mkv holds no content credentials",
        ),
    ):
        try:
            status = main.main(["generate", "a circle", *more])
        except SystemExit as stop:
            status = stop.code
        told = capsys.readouterr()
        assert status == 2 and message in told.err, told.err
        assert len(told.err.splitlines()) == 1
    assert not (tmp_path / "x.mkv").exists()
