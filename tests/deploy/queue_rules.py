"""The rules of deploy/terraform about pushes and sweeps; each reports what breaks it."""

import re
from collections.abc import Iterator
from typing import Any

from api.routes_internal import LONGEST
from tests.deploy.access_rules import PUBLIC
from tests.deploy.service_rules import API, WORKER, environment, paths
from tests.deploy.terraform_files import Block, Tree

SERVICE, LEFT = "google_cloud_run_v2_service", "ILLO_PUSH_SIGNATURES"
PUSH, SWEEP = "google_pubsub_subscription.push", "google_cloud_scheduler_job.sweep"


def pushes_reach_the_worker_and_are_believed(tree: Tree) -> Iterator[str]:
    """To a route that is there, wrapped, signed for the audience and by whom the worker expects."""
    subscription = tree.one(PUSH)
    push = subscription.at("push_config")
    if push.get("push_endpoint") != "${google_cloud_run_v2_service.worker[0].uri}/push":
        yield f"pushes go to {push.get('push_endpoint')}"
    if "/push" not in paths()["worker"]:
        yield "the worker has no /push"
    if push.all("no_wrapper"):
        yield "a message comes without its envelope"
    yield from _believed(
        push.at("oidc_token"), tree, service=WORKER, audience="push", account="push"
    )


def signatures_are_left_to_cloud_run_only_where_it_asks_who_calls(tree: Tree) -> Iterator[str]:
    """The worker alone believes what has no signature, behind a front that verifies everybody."""
    if LEFT in environment(tree, "api") or LEFT not in (tree.local("settled") or ()):
        yield f"{LEFT} may be set for the API, before which nobody verifies anything"
    left = environment(tree, "worker").get(LEFT)
    if left != "iam":
        yield f"{left} leaves signatures to the worker, from whose pushes Cloud Run takes them"
    if tree.one(WORKER).get("invoker_iam_disabled") not in (None, False):
        yield "Cloud Run asks nobody who calls the worker, and yet is trusted to have asked"
    for block in (*tree.of(f"{SERVICE}_iam_member"), *tree.of(f"{SERVICE}_iam_binding")):
        called = {block.get("member"), *(block.get("members") or ())}
        if WORKER in str(block.get("name")) and called & set(PUBLIC):
            yield f"{block.address} lets everybody call the worker, and yet it trusts who calls"


def sweeps_reach_the_api_and_are_believed(tree: Tree) -> Iterator[str]:
    """Every minute, to the route that is there, and it is waited for until the sweep ends."""
    job = tree.one(SWEEP)
    target = job.at("http_target")
    path = str(target.get("uri")).removeprefix("${google_cloud_run_v2_service.api[0].uri}")
    if path not in paths()["api"] or target.get("http_method") != "POST":
        yield f"{target.get('http_method')} {target.get('uri')} is no sweep"
    if job.get("schedule") != "* * * * *":
        yield f"the sweep runs at {job.get('schedule')}"
    waits, cut = _seconds(job.get("attempt_deadline")), tree.one(API).at("template").get("timeout")
    if not LONGEST < waits < _seconds(cut):
        yield f"a sweep of {LONGEST:g} s is waited for {waits} s, and cut after {cut}"
    yield from _believed(
        target.at("oidc_token"), tree, service=API, audience="sweep", account="scheduler"
    )


def deadlines_fit_each_other(tree: Tree) -> Iterator[str]:
    """Cloud Run never cuts a push that Pub/Sub still holds."""
    ack = tree.local("ack_deadline_seconds")
    if tree.one(PUSH).get("ack_deadline_seconds") != "${local.ack_deadline_seconds}":
        yield "the subscription has a deadline of its own"
    told = environment(tree, "worker").get("ILLO_ACK_DEADLINE_SECONDS")
    if told != "${tostring(local.ack_deadline_seconds)}":
        yield "the worker is told another deadline"
    if not isinstance(ack, int) or not 10 <= ack <= 600:
        yield f"Pub/Sub does not wait for {ack} s"
        return
    limit = tree.variable("worker_request_seconds")
    if tree.one(WORKER).at("template").get("timeout") != "${var.worker_request_seconds}s":
        yield "a push is not limited by worker_request_seconds"
    least = re.search(r">= (\d+)", str(limit.at("validation").get("condition")))
    if least is None or not ack + 300 <= int(least[1]) <= (limit.get("default") or 0):
        yield f"Cloud Run may cut a push that is waited for {ack} s"


def no_message_is_lost_in_the_queue(tree: Tree) -> Iterator[str]:
    """Kept a week, tried 100 times, paced, never expired; what is given up lies somewhere."""
    push, dead = tree.one(PUSH), tree.one("google_pubsub_subscription.dead")
    policy = push.at("dead_letter_policy")
    wanted: list[tuple[Any, Any]] = [
        (push.get("topic"), "${google_pubsub_topic.wakes.id}"),
        (policy.get("dead_letter_topic"), "${google_pubsub_topic.dead.id}"),
        (policy.get("max_delivery_attempts"), 100),
        (dead.get("topic"), "${google_pubsub_topic.dead.id}"),
        (push.at("retry_policy").get("minimum_backoff"), "10s"),
        (push.at("retry_policy").get("maximum_backoff"), "60s"),
        (push.get("enable_message_ordering"), False),
    ]
    for subscription in (push, dead):
        wanted.append((subscription.get("message_retention_duration"), "604800s"))
        wanted.append((subscription.at("expiration_policy").get("ttl"), ""))
    yield from (f"the queue has {found}, not {wish}" for found, wish in wanted if found != wish)
    if not tree.of("google_pubsub_subscription") or dead.get("count") is not None:
        yield "dead letters are forgotten while nothing serves"


def _believed(
    token: Block, tree: Tree, *, service: str, audience: str, account: str
) -> Iterator[str]:
    """Compare a token's audience and sender with what the service will ask for."""
    name = service.rpartition(".")[2]
    asked = f"${{local.{audience}_audience}}"
    given = environment(tree, name)
    sender = f"${{google_service_account.{account}.email}}"
    wanted = [
        (token.get("audience"), asked),
        (token.get("service_account_email"), sender),
        (given.get(f"ILLO_{audience.upper()}_AUDIENCE"), asked),
        (given.get(f"ILLO_{audience.upper()}_EMAIL"), sender),
        (tree.one(service).get("custom_audiences"), [asked]),
    ]
    yield from (
        f"the {name} is told {found}, not {wish}" for found, wish in wanted if found != wish
    )


def _seconds(duration: object) -> int:
    found = re.fullmatch(r"(\d+)s", str(duration))
    return int(found[1]) if found else 0


RULES = (
    pushes_reach_the_worker_and_are_believed,
    signatures_are_left_to_cloud_run_only_where_it_asks_who_calls,
    sweeps_reach_the_api_and_are_believed,
    deadlines_fit_each_other,
    no_message_is_lost_in_the_queue,
)
