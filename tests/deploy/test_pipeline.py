"""The workflow that deploys keeps its rules, and each rule notices when it is broken."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.workflows import read_workflow, scripts_of, steps_of

ROOT = Path(__file__).parents[2]
DEPLOY = (ROOT / ".github/workflows/deploy.yml").read_text()
CI = (ROOT / ".github/workflows/ci.yml").read_text()
BUILD = (ROOT / "deploy/cloudbuild.yaml").read_text()
MAIN = "github.ref == 'refs/heads/main'"
GCLOUD = "google-github-actions/setup-gcloud"
NEEDED = ("actions/checkout", "actions/setup-python", "hashicorp/setup-terraform", GCLOUD)
EMULATORS = ("beta", "pubsub-emulator", "cloud-firestore-emulator")
TOOLCHAINS = ("/usr/local/lib/android", "/usr/share/dotnet", "/opt/ghc", "/opt/hostedtoolcache")

Rule = Callable[[str], Iterator[str]]


def only_main_deploys(text: str) -> Iterator[str]:
    """No pull request starts it, and what has a token runs for main alone."""
    workflow = read_workflow(text)
    if workflow["on"] != {"push": {"branches": ["main"]}, "workflow_dispatch": None}:
        yield f"starts at {workflow['on']}"
    for name, job in workflow["jobs"].items():
        if "id-token" in job["permissions"] and job.get("if") != MAIN:
            yield f"{name} runs for any branch"


def a_token_goes_where_it_is_needed(text: str) -> Iterator[str]:
    """Nothing is granted to all, and a token only to what speaks with Google."""
    workflow = read_workflow(text)
    if workflow.get("permissions") != {}:
        yield "grants something to every job"
    for name, job in workflow["jobs"].items():
        granted = job.get("permissions", {})
        writes = {scope for scope, right in granted.items() if right == "write"}
        authenticates = any("google-github-actions/auth" in step.get("uses", "")
                            for step in job["steps"])  # fmt: skip
        if writes != ({"id-token"} if authenticates else set()):
            yield f"{name} may write {sorted(writes)}"


def there_is_no_lasting_key(text: str) -> Iterator[str]:
    """Whoever deploys proves itself anew each time."""
    for word in ("secrets.", "credentials_json", "activate-service-account", "_KEY", "_TOKEN"):
        if word in text:
            yield f"has {word}"
    for name, step in steps_of(read_workflow(text)):
        given = step.get("with", {})
        if "auth@" in step.get("uses", "") and "workload_identity_provider" not in given:
            yield f"{name} proves itself otherwise"


def actions_are_pinned(text: str) -> Iterator[str]:
    """An action is a commit, beside which its version is written."""
    for line in text.splitlines():
        if "uses:" in line and not re.search(
            r"uses: [\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+$", line
        ):
            yield line.strip()


def images_are_deployed_by_digest(text: str) -> Iterator[str]:
    """What was scanned and pushed is what runs, whatever a tag says by then."""
    workflow = read_workflow(text)
    deployed = re.findall(r"gcloud run \S+ \S+ (illo-\w+) .*--image=(\S+)", text)
    if dict(deployed).keys() != {"illo-api", "illo-worker"}:
        yield f"deploys {deployed}"
    for service, image in deployed:
        kind = service.removeprefix("illo-")
        if image.strip('"') != f"$REGISTRY/{kind}@${kind.upper()}":
            yield f"{service} runs {image}"
        told = workflow["jobs"]["deploy"]["env"].get(kind.upper())
        if told != f"${{{{ needs.images.outputs.{kind} }}}}":
            yield f"{service} runs what {told} says"
    if "^sha256:[0-9a-f]{64}$" not in text:
        yield "takes anything for a digest"
    if "latest" in text.replace("ubuntu-latest", ""):
        yield "names what is latest"


def each_step_waits_for_the_one_before(text: str) -> Iterator[str]:
    """Tests, then images, then the services; and never two deployments at once."""
    workflow = read_workflow(text)
    for job, before in (("images", "test"), ("deploy", "images")):
        if workflow["jobs"][job].get("needs") != before:
            yield f"{job} does not wait for {before}"
    if workflow.get("concurrency", {}).get("cancel-in-progress") is not False:
        yield "a deployment may be cut"


def images_are_scanned_before_they_are_pushed(text: str) -> Iterator[str]:
    """A known fault that has a remedy stops them, before anybody has proved who it is."""
    steps = [step for name, step in steps_of(read_workflow(text)) if name == "images"]
    places = {"scan": [], "auth": [], "push": []}  # type: dict[str, list[int]]
    for number, step in enumerate(steps):
        if "scan-action" in step.get("uses", ""):
            places["scan"].append(number)
            if step["with"].get("fail-build") != "true":
                yield "a scan stops nothing"
        if "google-github-actions/auth" in step.get("uses", ""):
            places["auth"].append(number)
        if "docker push" in step.get("run", ""):
            places["push"].append(number)
    scanned = {steps[number]["with"]["image"].rpartition("/")[2][:4] for number in places["scan"]}
    if scanned != {"api:", "work"}:
        yield f"scans {sorted(scanned)}"
    order = [*places["scan"], *places["auth"], *places["push"]]
    if order != sorted(order) or not all(places.values()):
        yield "pushes before it has scanned"


def pins_are_audited_before_anything_is_pushed(text: str) -> Iterator[str]:
    """Every exact version is looked up by a tool of exact version, and what it finds is judged."""
    jobs = read_workflow(text)["jobs"]
    pushing = next(name for name, step in steps_of({"jobs": jobs}) if "docker push" in _run(step))
    before = jobs[pushing].get("needs")
    audits = [step for name, step in steps_of({"jobs": jobs})
              if name == before and "pip-audit" in _run(step)]  # fmt: skip
    if len(audits) != 1:
        yield f"{len(audits)} audits before {pushing}"
    for audit in audits:
        script = " ".join(_run(audit).replace("\\\n", " ").split())
        if audit.keys() != {"name", "run"}:
            yield "an audit may be passed over"
        asked = re.search(r'/pip-audit" (.*?) \|\| echo "[\w ]+" (.*)$', script)
        if asked is None:
            yield "what was found is not judged"
            continue
        for flag in ("--strict", "--no-deps", "--requirement constraints.txt", "--format json"):
            if flag not in asked[1]:
                yield f"audits without {flag}"
        if asked[2] != 'python3 deploy/images/audit "$RUNNER_TEMP/audit.json"':
            yield f"judges by {asked[2]}"
        if 'pip" install --quiet --no-deps -r deploy/images/auditor.txt' not in script:
            yield "the auditor may be of any version"


def the_tests_find_what_they_start(text: str) -> Iterator[str]:
    """With CI set nothing is skipped: before .ci/run comes all that the tests need of others."""
    runs = 0
    for job in read_workflow(text)["jobs"].values():
        given = dict[str, dict[str, Any]]()
        for step in job["steps"]:
            given[step.get("uses", "").partition("@")[0]] = step.get("with", {})
            if step.get("run") != ".ci/run":
                continue
            runs += 1
            yield from (f"no {action} before it" for action in NEEDED if action not in given)
            components = given.get(GCLOUD, {}).get("install_components", "").split(",")
            yield from (f"no {part}" for part in EMULATORS if part not in components)
            if given.get("actions/setup-python", {}).get("python-version") != "3.11":
                yield "the tests are of another Python"
    if runs != 1:
        yield f"{runs} jobs run the tests"


def room_is_made_first(text: str) -> Iterator[str]:
    """A stock runner's disk is full of toolchains that nobody here uses."""
    first = next(step for name, step in steps_of(read_workflow(text)) if name == "images")
    for folder in TOOLCHAINS:
        if folder not in first.get("run", ""):
            yield f"keeps {folder}"


def scripts_take_no_words_from_outside(text: str) -> Iterator[str]:
    """An expression in a script is pasted into it as it is; a variable is not."""
    for script in scripts_of(text):
        if "${{" in script:
            yield script.splitlines()[0]
    for name, step in steps_of(read_workflow(text)):
        if "checkout" in step.get("uses", "") and step["with"]["persist-credentials"] is not False:
            yield f"{name} leaves its token behind"


def _run(step: dict[str, Any]) -> str:
    return str(step.get("run", ""))


RULES: tuple[Rule, ...] = (
    only_main_deploys,
    a_token_goes_where_it_is_needed,
    there_is_no_lasting_key,
    actions_are_pinned,
    images_are_deployed_by_digest,
    each_step_waits_for_the_one_before,
    images_are_scanned_before_they_are_pushed,
    pins_are_audited_before_anything_is_pushed,
    the_tests_find_what_they_start,
    room_is_made_first,
    scripts_take_no_words_from_outside,
)
MISTAKES: tuple[tuple[Rule, str, str], ...] = (
    (only_main_deploys, "workflow_dispatch:", "workflow_dispatch:\n  pull_request:"),
    (only_main_deploys, "branches: [main]", "branches: ['**']"),
    (only_main_deploys, f"    needs: images\n    if: {MAIN}\n", "    needs: images\n"),
    (a_token_goes_where_it_is_needed, "permissions: {}", "permissions: write-all"),
    (a_token_goes_where_it_is_needed, "      contents: read\n    env:\n      TORCH_INDEX",
     "      contents: read\n      id-token: write\n    env:\n      TORCH_INDEX"),
    (a_token_goes_where_it_is_needed, "      contents: read\n      id-token",
     "      contents: write\n      id-token"),
    (there_is_no_lasting_key, "service_account: ${{ vars.GCP_DEPLOYER }}",
     "credentials_json: ${{ secrets.DEPLOYER }}"),
    (there_is_no_lasting_key, "workload_identity_provider: ${{ vars.GCP_IDENTITY_PROVIDER }}", ""),
    (actions_are_pinned, "@08c6903cd8c0fde910a37f88322edcfb5dd907a8  # v5.0.0", "@v5"),
    (actions_are_pinned, "  # v7.4.0", ""),
    (images_are_deployed_by_digest, "/api@$API", "/api:$GITHUB_SHA"),
    (images_are_deployed_by_digest, "/api@$API", "/worker@$WORKER"),
    (images_are_deployed_by_digest, "needs.images.outputs.worker", "vars.WORKER"),
    (images_are_deployed_by_digest, '[[ "$digest" =~ ^sha256:[0-9a-f]{64}$ ]]', "true"),
    (each_step_waits_for_the_one_before, "    needs: test\n", ""),
    (each_step_waits_for_the_one_before, "cancel-in-progress: false", "cancel-in-progress: true"),
    (images_are_scanned_before_they_are_pushed, 'fail-build: "true"', 'fail-build: "false"'),
    (images_are_scanned_before_they_are_pushed, "/worker:${{ github.sha }}",
     "/api:${{ github.sha }}"),
    (images_are_scanned_before_they_are_pushed, "docker image prune", "docker push x"),
    (pins_are_audited_before_anything_is_pushed, "    needs: test\n", ""),
    (pins_are_audited_before_anything_is_pushed, "/bin/pip-audit", "/bin/pip-list"),
    (pins_are_audited_before_anything_is_pushed, "--strict ", ""),
    (pins_are_audited_before_anything_is_pushed, "constraints.txt", "requirements.txt"),
    (pins_are_audited_before_anything_is_pushed, "--no-deps -r deploy/images/auditor.txt",
     "pip-audit"),
    (pins_are_audited_before_anything_is_pushed,
     '          python3 deploy/images/audit "$RUNNER_TEMP/audit.json"\n', ""),
    (pins_are_audited_before_anything_is_pushed, 'audit "$RUNNER_TEMP/audit.json"\n',
     'audit "$RUNNER_TEMP/audit.json" || true\n'),
    (pins_are_audited_before_anything_is_pushed, "      - name: Audit every package that is pinned",
     "      - name: Audit every package that is pinned\n        continue-on-error: true"),
    (pins_are_audited_before_anything_is_pushed, "      - name: Audit every package that is pinned",
     "      - name: Audit every package that is pinned\n        if: false"),
    (the_tests_find_what_they_start, GCLOUD, "google-github-actions/auth"),
    (the_tests_find_what_they_start, "hashicorp/setup-terraform", "hashicorp/setup-other"),
    (the_tests_find_what_they_start, "beta,", ""),
    (the_tests_find_what_they_start, ",cloud-firestore-emulator", ""),
    (the_tests_find_what_they_start, '"3.11"', '"3.9"'),
    (the_tests_find_what_they_start, "      - run: .ci/run\n", ""),
    (room_is_made_first, "/usr/share/dotnet", "/usr/share/dot"),
    (scripts_take_no_words_from_outside, '--region="$REGION" --image',
     "--region=${{ vars.GCP_REGION }} --image"),
    (scripts_take_no_words_from_outside, "persist-credentials: false",
     "persist-credentials: true"),
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_is_kept(rule: Rule) -> None:
    assert list(rule(DEPLOY)) == []


@pytest.mark.parametrize(("rule", "right", "wrong"), MISTAKES)
def test_a_rule_notices_when_it_is_broken(rule: Rule, right: str, wrong: str) -> None:
    assert right in DEPLOY
    assert list(rule(DEPLOY.replace(right, wrong))) != []


def test_every_rule_is_broken_once_at_least() -> None:
    assert {rule for rule, _, _ in MISTAKES} == set(RULES)


def test_both_workflows_set_up_what_the_tests_start() -> None:
    assert list(the_tests_find_what_they_start(CI)) == []
    without = CI.replace("pubsub-emulator,", "")
    assert list(the_tests_find_what_they_start(without)) == ["no pubsub-emulator"]


def test_a_pull_request_has_neither_tokens_nor_secrets() -> None:
    workflow = read_workflow(CI)
    assert "pull_request_target" not in workflow["on"]
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert "secrets." not in CI
    assert not any("gcloud run" in script for script in scripts_of(CI))


def test_what_the_workflow_reads_is_told_to_whoever_sets_it_up() -> None:
    told = (ROOT / "deploy/README.md").read_text()
    for name in set(re.findall(r"vars\.(\w+)", DEPLOY)):
        assert f"`{name}`" in told, name


# --- Cloud Build ----------------------------------------------------------------------------------


def test_cloud_build_makes_both_images_and_deploys_nothing() -> None:
    build: dict[str, Any] = yaml.safe_load(BUILD)
    steps = [step for step in build["steps"] if "build" in step["args"]]
    made = {step["args"][step["args"].index("--tag") + 1] for step in steps}
    assert made == set(build["images"]) == {"$_REGISTRY/api:$_TAG", "$_REGISTRY/worker:$_TAG"}
    for step in steps:
        file = step["args"][step["args"].index("--file") + 1]
        assert (ROOT / file).is_file()
        declared = re.findall(r"^ARG (\w+)", (ROOT / file).read_text(), re.MULTILINE)
        given = [word.partition("=")[0] for word in step["args"] if "=" in word]
        assert set(given) <= set(declared)
    assert "run" not in {word for step in build["steps"] for word in step["args"]}


def test_every_substitution_is_declared_and_used() -> None:
    build = yaml.safe_load(BUILD)
    used = set(re.findall(r"\$(_[A-Z_]+)", BUILD))
    assert used == set(build["substitutions"])


def test_the_workflow_gives_only_arguments_that_the_dockerfiles_take() -> None:
    for kind in ("api", "worker"):
        declared = re.findall(r"^ARG (\w+)", (ROOT / f"Dockerfile.{kind}").read_text(), re.M)
        line = re.search(rf"docker build --file Dockerfile.{kind} (.*?)\s\.$", DEPLOY, re.M | re.S)
        assert line
        assert set(re.findall(r'--build-arg "(\w+)=', line[1])) <= set(declared)
