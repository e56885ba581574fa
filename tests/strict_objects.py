"""What a bucket keeps, by the rules of the real one: preconditions, generations, checksums, links.

Nothing is taken and ignored: a parameter that is not known here is refused.
"""

import base64
import hashlib
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any
from urllib.parse import quote

import google_crc32c
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

BUCKET = "illo-test"
PAGE = 1_000  # objects listed at once
CONDITIONS = ("ifGenerationMatch", "ifGenerationNotMatch")
MOST_SOURCES = 32  # of one composition
LONGEST_LINK = 604_800  # seconds
Query = Mapping[str, str]


@dataclass
class Refused(Exception):
    """What the server answers instead of doing it."""

    status: int
    message: str


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One generation of one name."""

    bucket: str
    name: str
    generation: int
    content_type: str
    metadata: Mapping[str, str]
    data: bytes
    components: int = 0  # a composite has so many, and no MD5

    @property
    def crc32c(self) -> str:
        return crc32c_of(self.data)

    @property
    def md5(self) -> str:
        return base64.b64encode(hashlib.md5(self.data).digest()).decode()

    @property
    def hashes(self) -> str:
        return f"crc32c={self.crc32c}" + ("" if self.components else f",md5={self.md5}")

    def described(self) -> dict[str, Any]:
        composite = {"componentCount": self.components}
        return {
            "kind": "storage#object", "bucket": self.bucket, "name": self.name,
            "generation": str(self.generation), "metageneration": "1",
            "contentType": self.content_type, "size": str(len(self.data)),
            "crc32c": self.crc32c, "metadata": dict(self.metadata),
            **(composite if self.components else {"md5Hash": self.md5}),
        }  # fmt: skip


@dataclass(kw_only=True)
class Upload:
    """A resumable upload on its way."""

    bucket: str
    description: Mapping[str, Any]
    query: Query
    received: bytearray = field(default_factory=bytearray)
    done: StoredObject | None = None


class Objects:
    """Buckets and what is in them; several threads may write at once."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.buckets = {BUCKET}
        self.held: dict[tuple[str, str], StoredObject] = {}
        self.overwritten: list[StoredObject] = []
        self.sent: list[str] = []  # names whose bytes somebody began to send
        self.signers: dict[str, RSAPublicKey] = {}  # by email: those whose links are good
        self._uploads: dict[str, Upload] = {}
        self._generations = itertools.count(time.time_ns() // 1000)
        self._lock = Lock()
        self._now = now

    def create_bucket(self, name: str) -> dict[str, str]:
        if name in self.buckets:
            raise Refused(409, f"the bucket {name} exists")
        self.buckets.add(name)
        return self.bucket(name)

    def bucket(self, name: str) -> dict[str, str]:
        if name not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        return {"kind": "storage#bucket", "name": name, "id": name}

    def write(
        self,
        bucket: str,
        description: Mapping[str, Any],
        data: bytes,
        query: Query,
        *,
        components: int = 0,
    ) -> StoredObject:
        """Store an object if its preconditions hold and its checksums are right."""
        self.bucket(bucket)
        unknown = set(description) - {"name", "contentType", "metadata", "crc32c", "md5Hash"}
        if unknown or not description.get("name"):
            raise Refused(400, f"cannot take {sorted(unknown) or 'an object without a name'}")
        with self._lock:
            there = self.held.get((bucket, description["name"]))
            check_conditions(there, query)
            new = StoredObject(
                bucket=bucket,
                name=description["name"],
                generation=next(self._generations),
                content_type=description.get("contentType", "application/octet-stream"),
                metadata=description.get("metadata", {}),
                data=data,
                components=components,
            )
            for given, found in (("crc32c", new.crc32c), ("md5Hash", new.md5)):
                if description.get(given, found) != found:
                    raise Refused(400, f"the {given} given is not that of the bytes: {found}")
            if there:
                self.overwritten.append(there)
            self.held[bucket, new.name] = new
        return new

    def compose(
        self, bucket: str, name: str, asked: Mapping[str, Any], query: Query
    ) -> StoredObject:
        """Make one object of others that follow each other; each may name its generation."""
        self.bucket(bucket)
        if unknown := asked.keys() - {"kind", "destination", "sourceObjects"}:
            raise Refused(400, f"cannot take {sorted(unknown)}")
        sources = asked["sourceObjects"]
        if not 1 <= len(sources) <= MOST_SOURCES:
            raise Refused(400, f"{len(sources)} sources; from 1 to {MOST_SOURCES} are composed")
        found = [self._source(bucket, source) for source in sources]
        described = {
            "contentType": found[0].content_type, **asked.get("destination", {}), "name": name,
        }  # fmt: skip
        if described.keys() & {"crc32c", "md5Hash"}:
            raise Refused(400, "a composition finds out its checksum itself")
        return self.write(
            bucket, described, b"".join(each.data for each in found), query,
            components=sum(each.components or 1 for each in found),
        )  # fmt: skip

    def _source(self, bucket: str, source: Mapping[str, Any]) -> StoredObject:
        if unknown := source.keys() - {"name", "generation", "objectPreconditions"}:
            raise Refused(400, f"cannot take {sorted(unknown)} of a source")
        named = source.get("generation")
        found = self.read(bucket, source["name"], {"generation": str(named)} if named else {})
        check_conditions(
            found, {key: str(value) for key, value in source.get("objectPreconditions", {}).items()}
        )
        return found

    def read(self, bucket: str, name: str, query: Query, *, link: bool = False) -> StoredObject:
        """Find an object, of the generation asked for if one is."""
        if not link:
            self.bucket(bucket)
        there = self.held.get((bucket, name))
        if there is None or query.get("generation", str(there.generation)) != str(there.generation):
            raise Refused(404, f"No such object: {bucket}/{name}")
        check_conditions(there, query, reading=True)
        return there

    def page(self, bucket: str, query: Query) -> dict[str, Any]:
        """List objects by name: those behind the token, at most so many."""
        self.bucket(bucket)
        size = min(int(query.get("maxResults", PAGE)), PAGE)
        prefix, after = query.get("prefix", ""), query.get("pageToken", "")
        found = sorted(
            name
            for there, name in self.held
            if there == bucket and name.startswith(prefix) and name > after
        )
        items = [self.held[bucket, name].described() for name in found[:size]]
        more = {"nextPageToken": found[size - 1]} if len(found) > size else {}
        return {"kind": "storage#objects", "items": items, **more}

    def delete(self, bucket: str, name: str, query: Query) -> None:
        with self._lock:
            there = self.read(bucket, name, {k: v for k, v in query.items() if k == "generation"})
            check_conditions(there, query)
            del self.held[bucket, name]

    def begin(self, bucket: str, description: Mapping[str, Any], query: Query) -> str:
        """Begin a resumable upload; its preconditions are judged now and again at the end."""
        self.bucket(bucket)
        self.sent.append(description.get("name", ""))
        check_conditions(self.held.get((bucket, description.get("name", ""))), query)
        number = f"upload-{next(self._generations)}"
        self._uploads[number] = Upload(bucket=bucket, description=description, query=query)
        return number

    def resume(self, number: str, span: str, data: bytes, checksums: Mapping[str, str]) -> Upload:
        """Take a part of a resumable upload, `bytes 0-99/200`, or tell how far it is."""
        upload = self._uploads.get(number)
        if upload is None:
            raise Refused(404, "there is no such upload")
        bounds, _, total = span.removeprefix("bytes ").partition("/")
        if upload.done or bounds == "*":
            return upload
        first, last = map(int, bounds.split("-"))
        if last - first + 1 != len(data):
            raise Refused(400, "the part is not as long as it says")
        if first > len(upload.received):
            raise Refused(503, "a part is missing before this one")
        upload.received[first:] = data
        if total != "*" and len(upload.received) == int(total):
            described = {**checksums, **upload.description}
            upload.done = self.write(upload.bucket, described, bytes(upload.received), upload.query)
        return upload

    def check_signature(self, host: str, path: str, query: Query) -> None:
        """Refuse a V4 link that is not signed by a known signer, or no longer good."""
        signature = query.get("X-Goog-Signature", "")
        signed = {name: value for name, value in query.items() if name != "X-Goog-Signature"}
        email, _, scope = signed.get("X-Goog-Credential", "").partition("/")
        stamp = signed.get("X-Goog-Date", "")
        key = self.signers.get(email)
        if key is None or signed.get("X-Goog-Algorithm") != "GOOG4-RSA-SHA256":
            raise Refused(403, "no link, or of nobody who may make one")
        if scope != f"{stamp[:8]}/auto/storage/goog4_request":
            raise Refused(403, "the credential is of another day or another service")
        pairs = "&".join(f"{quote(k, safe='')}={quote(signed[k], safe='')}" for k in sorted(signed))
        asked = ["GET", path, pairs, f"host:{host}\n", "host", "UNSIGNED-PAYLOAD"]
        digest = hashlib.sha256("\n".join(asked).encode()).hexdigest()
        message = "\n".join(["GOOG4-RSA-SHA256", stamp, scope, digest]).encode()
        try:
            key.verify(bytes.fromhex(signature), message, PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, ValueError):
            raise Refused(403, "the signature is not that of this request") from None
        made = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        lasts = int(signed["X-Goog-Expires"])
        if lasts > LONGEST_LINK or not made <= self._now() < made + timedelta(seconds=lasts):
            raise Refused(403, "the link has expired, or is not good yet")


def check_conditions(there: StoredObject | None, query: Query, *, reading: bool = False) -> None:
    """Refuse what was asked for on a condition that does not hold; generation 0 is no object."""
    now = there.generation if there else 0
    if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != now:
        raise Refused(412, "At least one of the pre-conditions you specified did not hold.")
    if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == now:
        raise Refused(304 if reading else 412, "the generation is the one not wanted")


def crc32c_of(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
