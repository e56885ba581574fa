"""The peer: a Flask route that reads its JSON and answers a constant, on the same server."""

from flask import Flask, Response, request
from waitress import serve

ANSWER = '{"id": "job_' + "a" * 26 + '", "object": "job", "status": "queued"}'


def main(port: int, threads: int) -> None:
    """Serve until killed."""
    app = Flask("bare")

    @app.post("/v1/jobs")
    def accept() -> Response:
        request.get_json()
        return Response(ANSWER, status=202, content_type="application/json")

    @app.get("/v1/jobs/<id>")
    def show(id: str) -> Response:
        return Response(ANSWER, content_type="application/json")

    @app.get("/healthz")
    def healthz() -> str:
        return "well"

    serve(app, host="127.0.0.1", port=port, threads=threads)
