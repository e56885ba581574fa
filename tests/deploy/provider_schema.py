"""Extract what the Google provider takes of each resource that is used here, from its CDK bindings.

Terraform's own way to learn this downloads the provider. A package of its bindings says the same
and installs nothing: `pip download --no-deps cdktf-cdktf-provider-google==16.12.1`, then

    python -c "from tests.deploy.provider_schema import main; main()" WHEEL
"""

import io
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.deploy.terraform_files import TERRAFORM, read_tree

WRITTEN = Path(__file__).with_suffix(".json")
# A property's documentation ends in the place where the provider documents the argument itself.
_DOCUMENTED = re.compile(r"/hashicorp/google/([0-9.]+)/docs/[\w/-]+#(\w+)")

Types = Mapping[str, Any]


def main() -> None:
    """Write the schema of the resources that deploy/terraform has, from the wheel that is named."""
    wheel = Path(sys.argv[1])
    kinds = sorted({block.address_kind for block in read_tree(TERRAFORM).provided()})
    schema = {"package": "-".join(wheel.name.split("-")[:2]), **extract(_bindings(wheel), kinds)}
    WRITTEN.write_text(_written(schema))


def extract(bindings: Mapping[str, Any], kinds: list[str]) -> dict[str, Any]:
    """Read what some kinds of resources take and tell, and which provider has them."""
    types: Types = bindings["types"]
    versions = set[str]()
    resources = {}
    for kind in kinds:
        config = _config(types, kind)
        taken = _block(types, config, versions)
        resources[kind] = {**taken, "told": _told(types, config.removesuffix("Config"), taken)}
    (version,) = versions
    return {"provider": f"hashicorp/google {version}", "resources": resources}


def _bindings(wheel: Path) -> Any:
    with zipfile.ZipFile(wheel) as files:
        (packed,) = (name for name in files.namelist() if name.endswith(".jsii.tgz"))
        content = files.read(packed)
    with tarfile.open(fileobj=io.BytesIO(content)) as inner:
        described = inner.extractfile("package/.jsii")
        assert described is not None
        return json.load(described)


def _config(types: Types, kind: str) -> str:
    named = kind.replace("data.", "data_") if "." in kind else kind.removeprefix("google_")
    wanted = named.replace("_", "") + "config"
    (found,) = (name for name in types if name.rpartition(".")[2].lower() == wanted)
    return found


def _block(types: Types, name: str, versions: set[str]) -> dict[str, Any]:
    arguments, blocks = dict[str, str](), dict[str, Any]()
    for given in types[name].get("properties", ()):
        documented = _DOCUMENTED.search(" ".join(map(str, given["docs"].values())))
        if documented:
            versions.add(documented[1])
        # a comment with code in it loses its end, and with it the place
        argument = documented[2] if documented else _snake(given["name"])
        need = "optional" if given.get("optional") else "required"
        inner, many = _struct(given["type"])
        if inner is None or inner not in types or types[inner]["kind"] != "interface":
            arguments[argument] = need
        else:
            found = _block(types, inner, versions)
            blocks[argument] = {"need": need, "many": many, **found}
    return {"arguments": arguments, "blocks": blocks}


def _told(types: Types, name: str, taken: Mapping[str, Any]) -> list[str]:
    """List what can be read of a resource beside what it was given."""
    told = {_snake(one["name"]) for one in types[name].get("properties", ())}
    bindings_own = {one for one in told if one.endswith("_input")} | {"tf_resource_type"}
    return sorted(told - bindings_own - {*taken["arguments"], *taken["blocks"]})


def _struct(type: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Name the struct that a property takes, if it does, and say whether it takes several."""
    if "fqn" in type:
        return (None if type["fqn"] == "cdktf.IResolvable" else type["fqn"]), False
    if "collection" in type:
        return _struct(type["collection"]["elementtype"])[0], True
    for one in type.get("union", {}).get("types", ()):
        name, many = _struct(one)
        if name is not None:
            return name, many
    return None, False


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", r"_\1", name).lower()


def _written(schema: Mapping[str, Any]) -> str:
    """Write a line for each resource, so that a change of one is a change of one line."""
    lines = [
        f"    {json.dumps(kind)}: {json.dumps(found, sort_keys=True)}"
        for kind, found in schema["resources"].items()
    ]
    head = "".join(
        f"  {json.dumps(name)}: {json.dumps(schema[name])},\n" for name in ("package", "provider")
    )
    return "{\n" + head + '  "resources": {\n' + ",\n".join(lines) + "\n  }\n}\n"
