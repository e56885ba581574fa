"""The part of Google that emulators leave out: tokens in its form, and the certificates to them."""

import hashlib
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.x509.oid import NameOID

from shared.embedded.push_keys import TokenSigner, make_push_key
from shared.ports import Clock

ISSUER = "https://accounts.google.com"
LASTS = timedelta(days=365)


class LocalIssuer:
    """Signs with the key of one file, which is made at first use for its owner's eyes only."""

    def __init__(self, key_file: Path, *, clock: Clock) -> None:
        self._private = make_push_key(key_file)
        self._clock = clock
        key = serialization.load_pem_private_key(self._private, password=None)
        assert isinstance(key, RSAPrivateKey)
        self._key = key
        # Named by its content: who has cached another folder's certificate looks for this one.
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.key_id = hashlib.sha256(public).hexdigest()[:40]

    def signer(self, *, audience: str, email: str) -> TokenSigner:
        """Make what signs tokens of this sender for this audience."""
        return TokenSigner(
            self._private,
            key_id=self.key_id,
            issuer=ISSUER,
            audience=audience,
            email=email,
            clock=self._clock,
        )

    def certificates(self) -> dict[str, str]:
        """Return them as Google serves its own: PEM by key id."""
        certificate = _certify(self._key, self._clock.now())
        return {self.key_id: certificate.public_bytes(serialization.Encoding.PEM).decode()}


def _certify(key: RSAPrivateKey, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "illo's push proxy")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LASTS)
        .sign(key, hashes.SHA256())
    )
