"""Read requests as waitress does, but never call it the server's fault that one is unreadable."""

from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.utilities import BadRequest, ServerNotImplemented


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    def received(self, data: bytes) -> int:
        try:
            consumed: int = super().received(data)
        except ValueError:  # a Content-Length of more digits than Python reads as a number
            self._refuse("a header cannot be read")
            return len(data)
        if isinstance(self.error, ServerNotImplemented):  # waitress' 501 for an odd encoding
            self._refuse("this Transfer-Encoding is not accepted; send the body as it is")
        return consumed

    def _refuse(self, detail: str) -> None:
        self.error: Any = BadRequest(detail)
        self.completed, self.connection_close = True, True


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection whose unreadable requests are answered with 400."""

    parser_class = _Parser
