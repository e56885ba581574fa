"""Answer with stored bytes, which never change, or with a link to them."""

from werkzeug.datastructures import Headers
from werkzeug.http import parse_etags

from api.problems import not_found
from api.routing import reply
from api.service import Service
from shared.jobs import Job
from shared.ports import Answer

FOREVER = "private, max-age=31536000, immutable"


def show_image(job: Job, index: str, headers: Headers, service: Service) -> Answer:
    """Answer with a job's image; raises a Refusal if it has none of this index."""
    if index not in map(str, range(len(job.images))):
        raise not_found(f"{job.id} has no image {index[:20]!r}")
    image = job.images[int(index)]
    return show_artifact(
        image.artifact,
        image.generation,
        sha256=image.sha256,
        content_type=job.scene.format.content_type,
        headers=headers,
        service=service,
    )


def show_artifact(
    name: str,
    generation: int,
    *,
    sha256: str,
    content_type: str,
    headers: Headers,
    service: Service,
) -> Answer:
    """Answer with an artifact's bytes, with 302 where the backend serves them, or with 304."""
    caching = {"ETag": f'"{sha256}"', "Cache-Control": FOREVER}
    if parse_etags(headers.get("If-None-Match")).contains_weak(sha256):  # RFC 9110, 13.1.2
        return reply(status=304, headers=caching)
    url = service.backends.artifacts.url(name, generation)
    if url:  # it is good for a few minutes only, so nobody may keep it
        return reply(status=302, headers={"Location": url, "Cache-Control": "no-store"})
    content = service.backends.artifacts.get(name, generation)
    return reply(content, content_type=content_type, headers=caching)
