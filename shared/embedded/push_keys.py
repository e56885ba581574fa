"""The key pair of the embedded queue: its dispatcher signs pushes, the workers verify them."""

import os
import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt

from shared.errors import StoreUnavailable
from shared.ports import Clock

KEY_BITS = 2048  # what Google's own push tokens are signed with
TOKEN_LASTS = timedelta(hours=1)  # like Google's
RENEWED_BEFORE = timedelta(minutes=5)  # a push may wait that long for its worker


def make_push_key(path: Path) -> bytes:
    """Return the private key in this file, made at first use for its owner's eyes only.

    The public key is written beside it, for the workers. Several processes may make it at once:
    all of them get the same key.
    """
    if not path.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        pem = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
        _create(path, pem, mode=0o600)
    private = path.read_bytes()
    if not public_key_path(path).exists():
        _create(public_key_path(path), _public_part(private), mode=0o644)
    return private


def read_public_key(path: Path) -> bytes:
    """Read the public key that belongs to the private one in this file, which need not be readable.

    Raises StoreUnavailable when there is none yet.
    """
    try:
        return public_key_path(path).read_bytes()
    except OSError as error:
        missing = f"{public_key_path(path)}: {error.strerror}; the push dispatcher makes it"
        raise StoreUnavailable(missing) from None


def public_key_path(path: Path) -> Path:
    """Name the file of the public key: `push-key.pub.pem` beside `push-key.pem`."""
    return path.with_suffix(f".pub{path.suffix}")


class TokenSigner:
    """Makes the identity token of a push, as Google would; one token serves until it gets old."""

    def __init__(
        self,
        private_key: bytes,
        *,
        key_id: str,
        issuer: str,
        audience: str,
        email: str,
        clock: Clock,
    ) -> None:
        self._signer = crypt.RSASigner.from_string(private_key, key_id)  # type: ignore[no-untyped-call]
        self._claims = {"iss": issuer, "aud": audience, "sub": email, "email": email}
        self._clock = clock
        self._lock = Lock()
        self._token = ""
        self._good_until: datetime | None = None

    def token(self) -> str:
        """Return a token that is good for some minutes at least."""
        now = self._clock.now()
        with self._lock:
            if self._good_until is None or now >= self._good_until - RENEWED_BEFORE:
                self._good_until = now + TOKEN_LASTS
                self._token = self._sign(now, self._good_until)
            return self._token

    def _sign(self, now: datetime, end: datetime) -> str:
        times = {"iat": int(now.timestamp()), "exp": int(end.timestamp())}
        claims = {**self._claims, "email_verified": True, **times}
        encoded: bytes = jwt.encode(self._signer, claims)  # type: ignore[no-untyped-call]
        return encoded.decode()


def _public_part(private: bytes) -> bytes:
    key = serialization.load_pem_private_key(private, password=None)
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _create(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file under a temporary name and link it into place, unless another was quicker."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
