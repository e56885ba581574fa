"""Render the OpenAPI description as one page that loads nothing from anywhere."""

import json
from html import escape
from typing import Any

from api.problems import CODES

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
code, pre { font: 14px/1.4 ui-monospace, monospace }
pre { overflow-x: auto; background: #f5f5f5; padding: .8rem }
summary { cursor: pointer; padding: .3rem 0 }
.method { display: inline-block; min-width: 4.5rem; font-weight: 600 }
td, th { text-align: left; padding: .1rem 1rem .1rem 0; vertical-align: top }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 }
  pre { background: #242424 } a { color: #9cf } }
"""


def docs_page(description: bytes) -> str:
    """Make the page."""
    document = json.loads(description)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<title>{escape(document['info']['title'])}: HTTP API</title><style>{_STYLE}</style>",
        f"<h1>{escape(document['info']['title'])}</h1>",
        f"<p>{escape(document['info']['description'])} ",
        "<a href='/openapi.json'>openapi.json</a></p>",
        *_operations(document),
        "<h2>Refusals</h2><table>",
        *(
            f"<tr id='{escape(code)}'><td><code>{escape(code)}</code><td>{escape(what)}"
            for code, what in CODES.items()
        ),
        "</table><h2>Models</h2>",
        *(_schema(name, schema) for name, schema in document["components"]["schemas"].items()),
    ]
    return "\n".join(parts) + "</html>\n"


def _operations(document: Any) -> list[str]:
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            shown = _operation(method, path, operation)
            by_tag.setdefault(operation["tags"][0], []).append(shown)
    return [f"<h2>{escape(tag)}</h2>" + "\n".join(shown) for tag, shown in by_tag.items()]


def _operation(method: str, path: str, operation: Any) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(p['name'])}</code><td>{p['in']}"
        f"<td>{escape(p.get('description') or p['schema'].get('description', ''))}"
        for p in operation["parameters"]
    )
    body = operation.get("requestBody", {}).get("content", {})
    answers = "".join(
        f"<tr><td>{escape(status)}<td>{_contents(answer.get('content', {}))}"
        for status, answer in operation["responses"].items()
    )
    return (
        f"<details><summary><span class=method>{method.upper()}</span> "
        f"<code>{escape(path)}</code> {escape(operation['summary'])}</summary>"
        + (f"<table>{rows}</table>" if rows else "")
        + (f"<p>Body: {_contents(body)}</p>" if body else "")
        + f"<table>{answers}</table></details>"
    )


def _contents(content: Any) -> str:
    return ", ".join(f"{escape(kind)} {_link(said)}" for kind, said in content.items())


def _link(said: Any) -> str:
    name = said.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return f"<a href='#{escape(name)}'>{escape(name)}</a>" if name else ""


def _schema(name: str, schema: Any) -> str:
    written = escape(json.dumps(schema, indent=2, ensure_ascii=False))
    return (
        f"<details id='{escape(name)}'><summary><code>{escape(name)}</code></summary>"
        f"<pre>{written}</pre></details>"
    )
