"""The rules of deploy/terraform about who may do what; each reports what breaks it."""

import re
from collections.abc import Iterator

from tests.deploy.terraform_files import Block, Tree

ACCOUNTS = {"api", "worker", "push", "scheduler", "deployer"}
SELF = "google_service_account.{}"
RESULTS, WEIGHTS = "google_storage_bucket.results", "google_storage_bucket.weights"
WAKES, DEAD = "google_pubsub_topic.wakes", "google_pubsub_topic.dead"
PUBSUB, GITHUB = "Pub/Sub", "GitHub"
API, WORKER = "google_cloud_run_v2_service.api", "google_cloud_run_v2_service.worker"
PUSHES = "google_pubsub_subscription.push"

# Who, as what, on what: these and no others.
GRANTS = {
    ("api", "datastore.user", "project"),
    ("api", "pubsub.publisher", WAKES),
    ("api", "storage.objectUser", RESULTS),
    ("api", "storage.objectViewer", WEIGHTS),
    ("api", "iam.serviceAccountTokenCreator", SELF.format("api")),
    ("api", "secretmanager.secretAccessor", "google_secret_manager_secret.keys"),
    ("worker", "datastore.user", "project"),
    ("worker", "pubsub.publisher", WAKES),
    ("worker", "storage.objectCreator", RESULTS),
    ("worker", "storage.objectViewer", RESULTS),
    ("worker", "storage.objectViewer", WEIGHTS),
    ("push", "run.invoker", WORKER),
    ("scheduler", "run.invoker", API),
    (PUBSUB, "pubsub.publisher", DEAD),
    (PUBSUB, "pubsub.subscriber", "google_pubsub_subscription.push"),
    (PUBSUB, "iam.serviceAccountTokenCreator", SELF.format("push")),
    ("deployer", "artifactregistry.writer", "google_artifact_registry_repository.images"),
    ("deployer", "run.developer", API),
    ("deployer", "run.developer", WORKER),
    ("deployer", "iam.serviceAccountUser", SELF.format("api")),
    ("deployer", "iam.serviceAccountUser", SELF.format("worker")),
    (GITHUB, "iam.workloadIdentityUser", SELF.format("deployer")),
}
PUBLIC = ("allUsers", "allAuthenticatedUsers")
DELETES_NOTHING = {"storage.objectCreator", "storage.objectViewer"}
# Beginnings of key material: a PEM, one of our own keys, a key of a Google API.
KEY_MATERIAL = re.compile(r"BEGIN [A-Z ]*PRIVATE KEY|illo_[a-z0-9]{4,}_[a-z0-9]{16,}|AIza[\w-]{30}")

Grant = tuple[str, str, str]


def only_push_invokes_the_worker(tree: Tree) -> Iterator[str]:
    """Pub/Sub's identity calls the worker, nobody else, and no door beside that one is open."""
    invokers = {who for who, role, on in grants(tree) if on == WORKER and role == "run.invoker"}
    if invokers != {"push"}:
        yield f"{sorted(invokers)} may invoke the worker"
    worker = tree.one(WORKER)
    if worker.get("ingress") != "INGRESS_TRAFFIC_INTERNAL_ONLY":
        yield "the worker can be reached from outside"
    for service in tree.of("google_cloud_run_v2_service"):
        asks = service.get("invoker_iam_disabled") in (None, False)
        if not asks and service.address != API:
            yield f"{service.address} asks nobody who calls"
    unasked = API in str(tree.one(PUSHES).at("push_config").get("push_endpoint"))
    if unasked:
        yield "pushes go where nobody is asked who calls"


def nothing_else_is_public(tree: Tree) -> Iterator[str]:
    """Everybody may call the API, which checks keys; no role is anybody's, and many forbid it."""
    if tree.one(API).get("invoker_iam_disabled") is not True:
        yield "whoever has a key of ours needs an account of Google's, too"
    for block in tree.provided():
        for member in (block.get("member"), *(block.get("members") or ())):
            if "_iam_" in block.address_kind and member in PUBLIC:
                yield f"{block.address} is for {member}"


def each_identity_may_do_what_it_needs_and_no_more(tree: Tree) -> Iterator[str]:
    """The grants are exactly those of the table."""
    found = set(grants(tree))
    yield from (f"{grant} is too much" for grant in found - GRANTS)
    yield from (f"{grant} is missing" for grant in GRANTS - found)
    for block in _blocks(tree):
        if block.address_kind.endswith(("_iam_binding", "_iam_policy")):
            yield f"{block.address} would take from others what they were given"
    accounts = {block.labels[1] for block in tree.of("google_service_account")}
    if accounts != ACCOUNTS:
        yield f"the identities are {sorted(accounts)}"


def each_service_runs_as_its_own_identity(tree: Tree) -> Iterator[str]:
    """Neither service is the project's default account, nor the other one."""
    for name in ("api", "worker"):
        account = tree.one(f"google_cloud_run_v2_service.{name}").at("template")
        if account.get("service_account") != f"${{google_service_account.{name}.email}}":
            yield f"the {name} runs as {account.get('service_account')}"


def the_worker_deletes_nothing(tree: Tree) -> Iterator[str]:
    """What the worker may do with objects is creating and reading."""
    for who, role, on in grants(tree):
        if who == "worker" and role.startswith("storage.") and role not in DELETES_NOTHING:
            yield f"the worker is {role} on {on}"
        if who == "worker" and on == "project" and role != "datastore.user":
            yield f"the worker is {role} everywhere"


def the_scheduler_only_invokes_the_api(tree: Tree) -> Iterator[str]:
    """The scheduler's identity opens one door."""
    found = {(role, on) for who, role, on in grants(tree) if who == "scheduler"}
    if found != {("run.invoker", API)}:
        yield f"the scheduler may {sorted(found)}"


def pubsub_itself_may_deliver(tree: Tree) -> Iterator[str]:
    """Its agent forwards dead letters, takes them from the subscription, and signs pushes."""
    needed = {grant for grant in GRANTS if grant[0] == PUBSUB}
    yield from (f"{grant} is missing" for grant in needed - set(grants(tree)))
    agent = tree.local("pubsub_agent") or ""
    if not re.fullmatch(
        r"serviceAccount:service-\$\{[\w.]+\.number\}@gcp-sa-pubsub\.iam\.gserviceaccount\.com",
        agent,
    ):
        yield f"Pub/Sub's agent is not {agent}"


def no_bucket_is_public(tree: Tree) -> Iterator[str]:
    """Access is by IAM alone, and the public is kept out whatever IAM says."""
    for bucket in tree.of("google_storage_bucket"):
        if bucket.get("uniform_bucket_level_access") is not True:
            yield f"{bucket.address} has access lists"
        if bucket.get("public_access_prevention") != "enforced":
            yield f"{bucket.address} could be made public"


def secrets_are_pinned_and_readable(tree: Tree) -> Iterator[str]:
    """A secret is read at a version that a number names, by who was given the right to."""
    readers = {(who, on) for who, role, on in grants(tree) if role.endswith("secretAccessor")}
    for service in tree.of("google_cloud_run_v2_service"):
        for env in service.at("template", "containers").all("env"):
            (reference,) = env.at("value_source").all("secret_key_ref") or [None]
            if reference is None:
                continue
            if not _pinned(reference.get("version"), tree):
                yield f"{service.address}: {env.get('name')} follows {reference.get('version')}"
            secret = _reference(reference.get("secret"))
            if (service.labels[1], secret) not in readers:
                yield f"{service.address} may not read {secret}"


def no_key_material_is_in_the_files(tree: Tree) -> Iterator[str]:
    """Neither in text, nor through resources whose content would lie in Terraform's state."""
    for name, text in tree.texts.items():
        if KEY_MATERIAL.search(text):
            yield f"{name} holds a key"
    for kind in ("google_service_account_key", "google_secret_manager_secret_version"):
        yield from (f"{block.address} puts a secret into the state" for block in tree.of(kind))


def only_one_branch_of_one_repository_deploys(tree: Tree) -> Iterator[str]:
    """GitHub's issuer signs for all of GitHub: repository and branch are both asked for."""
    for provider in tree.of("google_iam_workload_identity_pool_provider"):
        condition = provider.get("attribute_condition") or ""
        for part in ("assertion.repository == '${var.github_repository}'", "assertion.ref == '"):
            if part not in condition:
                yield f"{provider.address} does not ask for {part}"
        if "||" in condition:
            yield f"{provider.address} asks for one or the other"
    member = tree.one("google_service_account_iam_member.github_is_deployer").get("member") or ""
    if not member.endswith("/attribute.repository/${var.github_repository}"):
        yield f"{member} deploys"


def grants(tree: Tree) -> Iterator[Grant]:
    """List who has which role on what."""
    return ((_who(block), _role(block), _on(block)) for block in _iam(tree))


def _blocks(tree: Tree) -> Iterator[Block]:
    return tree.provided()


def _iam(tree: Tree) -> Iterator[Block]:
    return (block for block in tree.provided() if "_iam_" in block.address_kind and _role(block))


def _who(block: Block) -> str:
    member = str(block.get("member"))
    named = re.fullmatch(r"\$\{google_service_account\.(\w+)\.member\}", member)
    if named:
        return named[1]
    if member == "${local.pubsub_agent}":
        return PUBSUB
    return GITHUB if member.startswith("principalSet://") else member


def _role(block: Block) -> str:
    return str(block.get("role") or "").removeprefix("roles/")


def _on(block: Block) -> str:
    if block.address_kind.startswith("google_project_iam"):
        return "project"
    places = ("bucket", "topic", "subscription", "service_account_id", "secret_id", "repository")
    given = [block.get(place) for place in (*places, "name") if block.get(place)]
    return _reference(given[0]) if given else ""


def _reference(expression: object) -> str:
    """Name the resource that an expression is an attribute of."""
    found = re.fullmatch(r"\$\{(\w+\.\w+)(?:\[0\])?\.\w+\}", str(expression))
    return found[1] if found else str(expression)


def _pinned(version: object, tree: Tree) -> bool:
    if re.fullmatch(r"[1-9][0-9]*", str(version)):
        return True
    named = re.fullmatch(r"\$\{var\.(\w+)\}", str(version))
    if named is None:
        return False
    condition = str(tree.variable(named[1]).at("validation").get("condition"))
    return "^[1-9][0-9]*$" in condition


RULES = (
    only_push_invokes_the_worker,
    nothing_else_is_public,
    each_identity_may_do_what_it_needs_and_no_more,
    each_service_runs_as_its_own_identity,
    the_worker_deletes_nothing,
    the_scheduler_only_invokes_the_api,
    pubsub_itself_may_deliver,
    no_bucket_is_public,
    secrets_are_pinned_and_readable,
    no_key_material_is_in_the_files,
    only_one_branch_of_one_repository_deploys,
)
