"""Make links to objects, with whatever key there is to sign them: our own, IAM's or none."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

from google.auth import iam
from google.auth.credentials import Credentials, Signing
from google.auth.exceptions import GoogleAuthError
from google.auth.transport import Request

LASTS = timedelta(minutes=15)
SECONDS_PER_TRY = 5.0  # IAM is asked three times at most, while somebody waits for an image
PAUSE = 60.0  # seconds without links once signing failed, so that not every reader waits for IAM

log = logging.getLogger(__name__)


class Linkable(Protocol):
    """An object of a bucket, as the storage library has it."""

    def generate_signed_url(
        self,
        *,
        version: str,
        method: str,
        expiration: timedelta,
        generation: int,
        credentials: Signing,
    ) -> str:
        """Write and sign a link."""


class SignedLinks:
    """Makes links while it can sign them; which key it has is decided once, by the credentials."""

    def __init__(
        self,
        credentials: Credentials,
        request: Request,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signing = _signing(credentials, request)
        self._now = now
        self._silent_until = now()

    def link(self, linkable: Linkable, *, generation: int) -> str | None:
        """Make a link of 15 minutes; None, never an error, where it cannot be signed."""
        if self._signing is None or self._now() < self._silent_until:
            return None
        try:
            return linkable.generate_signed_url(
                version="v4",
                method="GET",
                expiration=LASTS,
                generation=generation,
                credentials=self._signing,
            )
        except (GoogleAuthError, LookupError, ValueError) as error:
            self._silent_until = self._now() + PAUSE
            remedy = "grant the service account roles/iam.serviceAccountTokenCreator on itself"
            log.warning("links_not_signed", extra={"reason": str(error)[:500], "remedy": remedy})
            return None


class _SignedByIam(Signing):
    """Signs as the service account whose token we have: Cloud Run gives no private key."""

    def __init__(self, credentials: Any, request: Request) -> None:
        self._credentials = credentials  # of any class that has a service account's email
        self._request = partial(request, timeout=SECONDS_PER_TRY)

    @property
    def signer_email(self) -> str:
        """Name the service account, which the metadata server tells with the first token."""
        if self._credentials.service_account_email == "default":
            self._credentials.refresh(self._request)
        email: str = self._credentials.service_account_email
        return email

    @property
    def signer(self) -> iam.Signer:
        """Make the signer of this service account."""
        return iam.Signer(self._request, self._credentials, self.signer_email)  # type: ignore[no-untyped-call]

    def sign_bytes(self, message: bytes) -> bytes:
        """Have IAM sign."""
        signature: bytes = self.signer.sign(message)
        return signature


def _signing(credentials: Credentials, request: Request) -> Signing | None:
    if isinstance(credentials, Signing):
        return credentials
    if hasattr(credentials, "service_account_email"):
        return _SignedByIam(credentials, request)
    return None
