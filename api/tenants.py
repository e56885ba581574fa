"""Whose request it is."""

from werkzeug.datastructures import Headers

LOCAL = "local"


def tenant_of(headers: Headers) -> str:
    """Name the tenant that sent a request; without keys there is only the local one."""
    return LOCAL
