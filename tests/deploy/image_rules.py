"""What the Dockerfiles have to keep: each rule says what is wrong, or nothing."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator

from tests.deploy.dockerfiles import ROOT, Dockerfile

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COPIED = {
    "LICENSE",
    "README.md",
    "api",
    "constraints.txt",
    "deploy",
    "deploy/images/compile-python",
    "deploy/images/requirements",
    "deploy/images/trim",
    "pyproject.toml",
    "shared",
    "worker",
}
ARGUMENTS = {
    "Dockerfile.api": {"BASE", "REVISION"},
    "Dockerfile.worker": {"BASE", "REVISION", "TORCH_SPEC", "TORCH_INDEX"},
}
SECRET = re.compile(r"secret|token|password|credential|api_?key|ILLO_KEYS|://[^/\s]*@", re.I)

Rule = Callable[[Dockerfile], Iterator[str]]


def the_base_is_pinned(file: Dockerfile) -> Iterator[str]:
    """BASE is an argument whose default names one image by its digest, and nothing else is used."""
    given = [rest for rest in file.head.all("ARG") if rest.startswith("BASE=")]
    if not given or not re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", given[0]):
        yield "BASE has no digest"
    known = {"${BASE}"}
    for stage in file.stages:
        if stage.base not in known:
            yield f"built from {stage.base}"
        known.add(stage.name)
    if any("latest" in rest for word in ("ARG", "RUN") for rest in file.all(word)):
        yield "something is the latest"


def what_builds_stays_behind(file: Dockerfile) -> Iterator[str]:
    """The image is the base and what earlier stages made: it installs nothing."""
    if len(file.stages) < 2 or file.last.base != "${BASE}":
        yield "the last stage is not made of the base alone"
    for run in file.last.all("RUN"):
        if re.search(r"\b(pip|apt|apt-get|curl|wget|git)\b", run):
            yield f"the last stage fetches: {run}"
    if not any(copy.startswith("--from=") for copy in file.last.all("COPY")):
        yield "nothing is taken from the stages before"


def nobody_is_root(file: Dockerfile) -> Iterator[str]:
    """The last word on the user is a number that is not root's, and the user of that number."""
    users = file.last.all("USER")
    if not users or not re.fullmatch(r"[1-9]\d+:[1-9]\d+", users[-1]):
        yield f"the user is {users}"
    elif f"--uid {users[-1].split(':')[0]} " not in " ".join(file.last.all("RUN")):
        yield "the user has no entry"


def signals_reach_the_program(file: Dockerfile) -> Iterator[str]:
    """No shell stands between: SIGTERM goes to a program of ours, which drains."""
    if file.last.all("STOPSIGNAL") != ["SIGTERM"]:
        yield "STOPSIGNAL is not SIGTERM"
    if file.all("ENTRYPOINT"):
        yield "an ENTRYPOINT stands before the program"
    for command in file.all("CMD") or ["none"]:
        try:
            program = json.loads(command)[0]
        except ValueError:
            yield f"CMD is for a shell: {command}"
        else:
            if program not in PROJECT["scripts"]:
                yield f"{program} is no program of ours"


def no_secret_is_built_in(file: Dockerfile) -> Iterator[str]:
    """What is given to a build can be read from the image: it is only what is listed."""
    arguments = {rest.partition("=")[0] for rest in file.all("ARG")}
    if arguments != ARGUMENTS[file.name]:
        yield f"other arguments: {sorted(arguments ^ ARGUMENTS[file.name])}"
    for word in ("ARG", "ENV", "RUN", "LABEL", "COPY"):
        for rest in file.all(word):
            if SECRET.search(rest):
                yield f"{word} {rest}"


def only_what_is_listed_is_copied(file: Dockerfile) -> Iterator[str]:
    """Every source is named; nothing comes with it by chance, or from an address."""
    if file.all("ADD"):
        yield "ADD"
    for copy in file.all("COPY"):
        words = copy.split()
        if words[0].startswith("--from="):
            continue
        for source in words[:-1]:
            if source not in COPIED:
                yield f"copies {source}"


def no_weights_come_along(file: Dockerfile) -> Iterator[str]:
    """Weights are fetched at the start: nothing here names a file of them, or a hub."""
    for word in ("COPY", "RUN", "ENV"):
        for rest in file.all(word):
            if re.search(r"gguf|safetensors|weights|huggingface|make_tiny", rest):
                yield f"{word} {rest}"


def installs_are_exact(file: Dockerfile) -> Iterator[str]:
    """Every version is pinned, pip keeps no cache, and what was installed is checked."""
    runs = file.all("RUN")
    for run in runs:
        for step in run.split("&&"):
            if re.search(r"pip .*\binstall\b|pip wheel", step) and "--no-cache-dir" not in step:
                yield f"pip keeps a cache: {step}"
            exact = re.search(r" -c (but-torch|constraints)\.txt | --no-deps ", step)
            if re.search(r"pip .*\binstall\b", step) and not exact:
                yield f"no exact versions: {step}"
    if not any(re.search(r"pip .*\bcheck\b", run) for run in runs):
        yield "pip check is left out"


def bytecode_is_there_and_never_written(file: Dockerfile) -> Iterator[str]:
    """A root that cannot be written to has its bytecode from the build: libraries, illo, Python."""
    environment = " ".join(file.last.all("ENV"))
    if "PYTHONDONTWRITEBYTECODE=1" not in environment:
        yield "bytecode would be written"
    compiled = " ".join(file.all("RUN"))
    for what in ("trim /opt/illo", "trim /srv/illo", "python3 /tmp/compile-python"):
        if what not in compiled:
            yield f"{what}: left out"


def it_listens_where_the_platform_asks(file: Dockerfile) -> Iterator[str]:
    """On every address, and on the port that the platform names at the start."""
    environment = " ".join(file.last.all("ENV"))
    if "ILLO_HOST=0.0.0.0" not in environment:
        yield "it would listen on the loopback address only"
    if re.search(r"\bPORT=", environment):
        yield "the port is fixed"


def torch_is_where_it_belongs(file: Dockerfile) -> Iterator[str]:
    """The API never names it; the worker's is chosen by two arguments."""
    if file.name == "Dockerfile.api":
        words = [rest for word in ("ARG", "RUN", "ENV") for rest in file.all(word)]
        yield from (rest for rest in words if re.search(r"torch|\bworker\b", rest, re.I))
        return
    pin = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pin, "constraints.txt pins torch"
    if f"TORCH_SPEC={pin[0]}" not in file.all("ARG"):
        yield f"TORCH_SPEC does not begin as {pin[0]}"
    if "TORCH_INDEX=" not in file.all("ARG"):
        yield "TORCH_INDEX does not begin empty"
    runs = " ".join(file.all("RUN"))
    if '"${TORCH_SPEC}"' not in runs or '${TORCH_INDEX:+--extra-index-url "' not in runs:
        yield "the arguments are not used"
    if "${TORCH_SPEC:?" not in runs:
        yield "an empty TORCH_SPEC is taken"


RULES: tuple[Rule, ...] = (
    the_base_is_pinned,
    what_builds_stays_behind,
    nobody_is_root,
    signals_reach_the_program,
    no_secret_is_built_in,
    only_what_is_listed_is_copied,
    no_weights_come_along,
    installs_are_exact,
    bytecode_is_there_and_never_written,
    it_listens_where_the_platform_asks,
    torch_is_where_it_belongs,
)
