"""The Dockerfiles keep their rules, and each rule sees when it is broken."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy import image_rules as rules
from tests.deploy.dockerfiles import NAMES, ROOT, Dockerfile, is_sent, read_dockerfile
from tests.deploy.image_rules import COPIED, RULES, Rule

API, WORKER = NAMES
TEXTS = {name: (ROOT / name).read_text() for name in NAMES}
IGNORE = (ROOT / ".dockerignore").read_text()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_a_rule_is_kept(name: str, rule: Rule) -> None:
    assert not list(rule(read_dockerfile(name, TEXTS[name])))


# What is broken on purpose: the rule that must see it, and what becomes of which words.
MISTAKES: tuple[tuple[Rule, str, str], ...] = (
    (rules.the_base_is_pinned, r"@sha256:\w+", ""),
    (rules.the_base_is_pinned, r"@sha256:\w+", "@sha256:cafe"),
    (rules.the_base_is_pinned, r"3\.11-slim-bookworm@sha256:\w+", "latest"),
    (rules.the_base_is_pinned, r"FROM \$\{BASE\}\n", "FROM debian:bookworm\n"),
    (rules.what_builds_stays_behind, r"FROM \$\{BASE\}\n", "FROM illo\n"),
    (rules.what_builds_stays_behind, r"groupadd", "apt-get install -y gcc && groupadd"),
    (rules.what_builds_stays_behind, r"COPY --from=.*\n", ""),
    (rules.nobody_is_root, r"USER .*\n", ""),
    (rules.nobody_is_root, r"USER .*\n", "USER 0:0\n"),
    (rules.nobody_is_root, r"USER .*\n", "USER illo\n"),
    (rules.nobody_is_root, r"USER .*\n", "USER 10002:10002\n"),
    (rules.nobody_is_root, r"(USER .*\n)", r"\1USER root\n"),
    (rules.signals_reach_the_program, r"STOPSIGNAL .*\n", ""),
    (rules.signals_reach_the_program, r"STOPSIGNAL .*\n", "STOPSIGNAL SIGKILL\n"),
    (rules.signals_reach_the_program, r'CMD \["(.*)"\]', r"CMD \1"),
    (rules.signals_reach_the_program, r'CMD \["(.*)"\]', r'CMD ["sh", "-c", "\1"]'),
    (rules.signals_reach_the_program, r"CMD .*\n", ""),
    (rules.signals_reach_the_program, r"CMD", "ENTRYPOINT tini\nCMD"),
    (rules.no_secret_is_built_in, r"ARG REVISION", "ARG INDEX_PASSWORD=\nARG REVISION"),
    (rules.no_secret_is_built_in, r"HOME=/tmp", "ILLO_KEYS=/srv/keys.json HOME=/tmp"),
    (rules.no_secret_is_built_in, r"pip wheel", "pip wheel --index-url https://me:x@example.org"),
    (rules.only_what_is_listed_is_copied, r"COPY shared shared", "COPY . ."),
    (rules.only_what_is_listed_is_copied, r"COPY shared shared", "COPY shared tests ./"),
    (rules.only_what_is_listed_is_copied, r"COPY shared", "ADD https://example.org shared"),
    (rules.no_weights_come_along, r"COPY shared shared", "COPY data/weights weights"),
    (rules.no_weights_come_along, r"HOME=/tmp", "HOME=/tmp HF_HOME=/huggingface"),
    (rules.installs_are_exact, r" --no-cache-dir", ""),
    (rules.installs_are_exact, r"-c (but-torch|constraints)\.txt", ""),
    (rules.installs_are_exact, r"install (.*) \\\n    --no-deps", r"install \1"),
    (rules.installs_are_exact, r"/opt/illo/bin/python check", "/opt/illo/bin/python list"),
    (rules.bytecode_is_there_and_never_written, r"PYTHONDONTWRITEBYTECODE=1", ""),
    (rules.bytecode_is_there_and_never_written, r"sh deploy/images/trim /srv/illo", "true"),
    (rules.bytecode_is_there_and_never_written, r"python3 /tmp/compile-python", "true"),
    (rules.it_listens_where_the_platform_asks, r"ILLO_HOST=0\.0\.0\.0", "ILLO_HOST=127.0.0.1"),
    (rules.it_listens_where_the_platform_asks, r"HOME=/tmp", "HOME=/tmp PORT=8080"),
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("rule", "words", "broken"),
    MISTAKES,
    ids=[f"{n}-{rule.__name__}" for n, (rule, _, _) in enumerate(MISTAKES)],
)
def test_a_rule_sees_a_mistake(name: str, rule: Rule, words: str, broken: str) -> None:
    assert list(rule(mistaken(name, words, broken)))


@pytest.mark.parametrize(
    ("name", "words", "broken"),
    [
        (API, r"gcp serve", "gcp serve worker"),
        (API, r"RUN python3 -m venv", "RUN pip install torch && python3 -m venv"),
        (WORKER, r"TORCH_SPEC=torch==[\d.]+", "TORCH_SPEC=torch"),
        (WORKER, r"ARG TORCH_INDEX=", "ARG TORCH_INDEX=https://example.org"),
        (WORKER, r"ARG TORCH_INDEX=\n", ""),
        (WORKER, r' "\$\{TORCH_SPEC\}"', " torch"),
        (WORKER, r"\$\{TORCH_INDEX:.*?\}\"\}", ""),
        (WORKER, r': "\$\{TORCH_SPEC:\?.*?\}" ', "true "),
    ],
)
def test_the_rule_of_torch_sees_a_mistake(name: str, words: str, broken: str) -> None:
    assert list(rules.torch_is_where_it_belongs(mistaken(name, words, broken)))


def test_every_rule_has_a_mistake() -> None:
    tried = {rule for rule, _, _ in MISTAKES} | {rules.torch_is_where_it_belongs}
    assert tried == set(RULES)


@pytest.mark.parametrize(
    ("spec", "pinned"),
    [
        ("torch==2.13.0", True),
        ("torch==2.13.0+cu126", True),
        ("torch==2.11.0", False),
        ("torch==2.13.01", False),
        ("torch", False),
    ],
)
def test_setuptools_is_pinned_beside_the_torch_that_is(
    spec: str, pinned: bool, tmp_path: Path
) -> None:
    """Another torch may want an older one: torch 2.11 and 2.12 do."""
    assert before_torch(spec, tmp_path).returncode == 0
    left = (tmp_path / "but-torch.txt").read_text().splitlines()
    whole = (tmp_path / "constraints.txt").read_text().splitlines()
    gone = {line.partition("==")[0] for line in set(whole) - set(left)}
    assert gone == ({"torch"} if pinned else {"torch", "setuptools"})


def test_an_empty_torch_is_refused_in_words(tmp_path: Path) -> None:
    refused = before_torch("", tmp_path)
    assert refused.returncode != 0
    assert "TORCH_SPEC: is empty: name a torch" in refused.stderr
    assert not (tmp_path / "but-torch.txt").exists()


def before_torch(spec: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run what the worker's Dockerfile does just before it installs torch."""
    (folder / "constraints.txt").write_text((ROOT / "constraints.txt").read_text())
    runs = read_dockerfile(WORKER, TEXTS[WORKER]).all("RUN")
    [script] = [run.partition(" && /opt/tool")[0] for run in runs if "> but-torch.txt" in run]
    shell = {"TORCH_SPEC": spec, "PATH": os.environ["PATH"]}
    asked = ["sh", "-euc", script]
    return subprocess.run(asked, cwd=folder, env=shell, capture_output=True, text=True)


def test_the_two_say_the_same_where_they_do_the_same() -> None:
    api, worker = (read_dockerfile(name, TEXTS[name]) for name in NAMES)
    assert api.head == worker.head
    assert api.stages[1:-1] == worker.stages[1:-1]
    own = ("LABEL", "ENV", "CMD")
    shared = [
        [step for step in file.last.instructions if step.word not in own] for file in (api, worker)
    ]
    assert shared[0] == shared[1]


@pytest.mark.parametrize("copied", sorted(COPIED))
def test_what_is_copied_is_sent_to_an_engine(copied: str) -> None:
    assert (ROOT / copied).exists()
    assert is_sent(copied, IGNORE)


STAYS = (
    ".env",
    ".git/config",
    ".venv/bin/python",
    "api/__pycache__/app.cpython-311.pyc",
    "benchmarks/disk.py",
    "data/illo.sqlite",
    "data/push-key.pem",
    "deploy/terraform/terraform.tfstate",
    "deploy/terraform/terraform.tfvars",
    "keys.json",
    "out/mia.png",
    "shared/embedded/__pycache__/database.cpython-311.pyc",
    "tests/conftest.py",
)


@pytest.mark.parametrize("path", STAYS)
def test_what_is_of_no_use_or_secret_stays(path: str) -> None:
    assert not is_sent(path, IGNORE)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [("*", "keys.json"), ("deploy/terraform", STAYS[7]), ("**/__pycache__", STAYS[3])],
)
def test_a_line_of_the_list_that_is_left_out_is_seen(pattern: str, path: str) -> None:
    lines = [line for line in IGNORE.splitlines() if line not in (pattern, "**/*.pyc")]
    assert is_sent(path, "\n".join(lines))


def test_the_scripts_of_the_images_can_be_started() -> None:
    assert os.access(ROOT / "deploy" / "images" / "build", os.X_OK)


def mistaken(name: str, words: str, broken: str) -> Dockerfile:
    text, times = re.subn(words, broken, TEXTS[name])
    assert times, f"{words}: not in {name}"
    return read_dockerfile(name, text)
