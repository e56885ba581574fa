"""The rules of deploy/terraform about the two services; each reports what breaks it."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from api.routes_internal import internal_routes
from api.routes_service import service_routes
from shared.errors import BadSettings
from shared.requirements import require_api, require_worker
from shared.settings import Settings
from tests.deploy.terraform_files import Tree, variables_named
from worker.app import Health, create_app

API, WORKER = "google_cloud_run_v2_service.api", "google_cloud_run_v2_service.worker"
SET_BY_CLOUD_RUN = {"PORT": "8080", "K_SERVICE": "illo"}
# What `gcloud run services update` gives every revision, so that there is a new one.
MARK = '${template[0].labels["client.knative.dev/nonce"]}'
NUMBER = "0.0004"  # stands for what only Terraform can work out
SECRET = '{"keys": []}'  # stands for what only Secret Manager knows


def the_worker_has_a_gpu_and_is_billed_by_the_instance(tree: Tree) -> Iterator[str]:
    """One GPU without zonal redundancy, the second generation, CPU at all times."""
    template = tree.one(WORKER).at("template")
    resources = template.at("containers", "resources")
    wanted = [
        (template.at("node_selector").get("accelerator"), "${var.worker_gpu}"),
        (template.get("gpu_zonal_redundancy_disabled"), True),
        (template.get("execution_environment"), "EXECUTION_ENVIRONMENT_GEN2"),
        (template.get("max_instance_request_concurrency"), "${var.worker_concurrency}"),
        (template.at("scaling").get("max_instance_count"), "${var.worker_max_instances}"),
        (tree.one(WORKER).at("scaling").get("min_instance_count"), "${var.worker_min_instances}"),
        (resources.get("cpu_idle"), False),
        ((resources.get("limits") or {}).get("nvidia.com/gpu"), "1"),
        ((resources.get("limits") or {}).get("cpu"), "${tostring(var.worker_cpu)}"),
        ((resources.get("limits") or {}).get("memory"), "${var.worker_memory_gib}Gi"),
    ]
    yield from (f"the worker has {found}, not {wish}" for found, wish in wanted if found != wish)
    if template.all("vpc_access"):
        yield "a VPC stands between the worker and its weights"


def the_api_costs_nothing_while_nobody_asks(tree: Tree) -> Iterator[str]:
    """No instance is kept, and CPU is paid for while it answers."""
    api = tree.one(API)
    if api.at("template", "containers", "resources").get("cpu_idle") is not True:
        yield "the API is billed by the instance"
    if tree.variable("api_min_instances").get("default") != 0:
        yield "an API instance is kept awake"


def bills_are_bounded(tree: Tree) -> Iterator[str]:
    """Few workers, none kept awake, a ceiling of drawing seconds, and a budget that warns."""
    if not 1 <= (tree.variable("worker_max_instances").get("default") or 99) <= 2:
        yield "more than two workers unless somebody says otherwise"
    if tree.variable("worker_min_instances").get("default") != 0:
        yield "a GPU is kept awake unless somebody says otherwise"
    if not (tree.local("shared_environment") or {}).get("ILLO_GPU_SECONDS_PER_DAY"):
        yield "no ceiling of drawing seconds"
    budget = tree.one("google_billing_budget.month")
    warned = {
        (r.get("threshold_percent"), r.get("spend_basis")) for r in budget.blocks if r.arguments
    }
    for step in ((0.5, None), (0.9, None), (1.0, None), (1.0, "FORECASTED_SPEND")):
        if step not in warned:
            yield f"nobody is told at {step}"


def images_are_named_by_digest(tree: Tree) -> Iterator[str]:
    """A tag may move; what runs is what was tested. Later ones are the pipeline's."""
    for name in ("api", "worker"):
        service = tree.one(f"google_cloud_run_v2_service.{name}")
        if service.at("template", "containers").get("image") != f"${{var.{name}_image}}":
            yield f"the {name}'s image is not the variable"
        condition = str(tree.variable(f"{name}_image").at("validation").get("condition"))
        if "@sha256:[0-9a-f]{64}$" not in condition:
            yield f"{name}_image may be named by a tag"
        left_alone = service.at("lifecycle").get("ignore_changes") or ()
        if "${template[0].containers[0].image}" not in left_alone:
            yield f"an apply would roll the {name} back"
        if MARK not in left_alone:
            yield f"the apply after a deployment would start the {name} anew"


def every_setting_that_is_needed_is_set(tree: Tree) -> Iterator[str]:
    """The programs themselves judge their environment: unknown, wrong and missing names."""
    requirements: dict[str, Callable[[Settings], None]] = {
        "api": require_api, "worker": require_worker,
    }  # fmt: skip
    for name, require in requirements.items():
        given = environment(tree, name)
        try:
            examples = {k: _example(k, v, tree) for k, v in given.items()}
            settings = Settings.read(SET_BY_CLOUD_RUN | examples)
            require(settings)
        except BadSettings as wrong:
            yield f"{name}: {wrong}"
            continue
        if settings.host != "0.0.0.0":
            yield f"{name}: it listens on {settings.host}, where nobody comes"
        for its_own in SET_BY_CLOUD_RUN.keys() & given.keys():
            yield f"{name}: Cloud Run sets {its_own} itself"
        if settings.backend != "gcp" or settings.weights_bucket is None:
            yield f"{name}: it does not stand on Google's services"


def both_services_agree(tree: Tree) -> Iterator[str]:
    """Weights, workers, ceilings and prices are one set of values for both."""
    for name in ("api", "worker"):
        container = tree.one(f"google_cloud_run_v2_service.{name}").at("template", "containers")
        taken = {env.each for env in container.all("env") if env.each}
        if "${local.shared_environment}" not in taken:
            yield f"the {name} does not get what both have to know"
        if "${var.more_settings}" not in taken:
            yield f"the {name} does not get the operator's settings"
    settled = set(tree.local("settled") or ())
    for name in ("api", "worker"):
        own = set(environment(tree, name)) - {"GOOGLE_CLOUD_PROJECT"}
        yield from (f"more_settings could set {left}" for left in sorted(own - settled))


def probes_ask_what_is_answered(tree: Tree) -> Iterator[str]:
    """Each probe's path is a route; a worker is ready when /readyz says so, within its window."""
    for name in ("api", "worker"):
        container = tree.one(f"google_cloud_run_v2_service.{name}").at("template", "containers")
        for probe in (*container.all("startup_probe"), *container.all("liveness_probe")):
            path = probe.at("http_get").get("path")
            if path not in paths()[name]:
                yield f"the {name} does not answer {path}"
    startup = tree.one(WORKER).at("template", "containers", "startup_probe")
    if startup.at("http_get").get("path") != "/readyz":
        yield "a worker counts as started before its weights are there"
    if variables_named(str(startup.get("failure_threshold"))) != {"worker_startup_seconds"}:
        yield "the window of a start is no variable"
    if startup.get("period_seconds") != "${local.probe_seconds}":
        yield "the window is reckoned with another period"


def environment(tree: Tree, service: str) -> dict[str, str]:
    """Collect what a service finds in its environment, as it is written."""
    found: dict[str, str] = {}
    container = tree.one(f"google_cloud_run_v2_service.{service}").at("template", "containers")
    for env in container.all("env"):
        if env.each is None:
            found[str(env.get("name"))] = env.get("value") or SECRET
        elif env.each.startswith("${local."):
            found |= tree.local(env.each.removeprefix("${local.").removesuffix("}")) or {}
    return found


@cache
def paths() -> dict[str, set[str]]:
    """List the paths that each program answers."""
    settings = SimpleNamespace(sweep_audience="somebody")
    stub: Any = SimpleNamespace(settings=settings, signatures_removed=False)
    routes = [*internal_routes(stub, stub), *service_routes(stub, [])]
    worker = create_app(
        identity=stub,
        health=Health(ill=lambda: None, unready=lambda: None),
        answer=lambda body: 204,
        registry=CollectorRegistry(),
    )
    return {
        "api": {route.path for route in routes},
        "worker": {rule.rule for rule in worker.url_map.iter_rules()},
    }


def _example(name: str, written: str, tree: Tree) -> str:
    """Give an expression a value such as it may have: a variable's default, or a stand-in."""
    variables = variables_named(written)
    defaults = [tree.variable(one).get("default") for one in variables]
    if written.startswith("${format("):
        return NUMBER
    if len(defaults) == 1 and defaults[0] is not None and written.startswith("${tostring("):
        return str(defaults[0])
    local = re.fullmatch(r"\$\{tostring\(local\.(\w+)\)\}", written)
    if local:
        return str(tree.local(local[1]))
    return re.sub(r"\$\{[^}]*\}", "stands-for-it", written)


RULES = (
    the_worker_has_a_gpu_and_is_billed_by_the_instance,
    the_api_costs_nothing_while_nobody_asks,
    bills_are_bounded,
    images_are_named_by_digest,
    every_setting_that_is_needed_is_set,
    both_services_agree,
    probes_ask_what_is_answered,
)
