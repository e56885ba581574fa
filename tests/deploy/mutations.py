"""Ways to break each rule of deploy/terraform: a file, what stands there, what instead."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A replacement of text that one rule has to notice."""

    rule: str
    file: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.new.strip()[:60] or 'without ' + self.old.strip()[:50]}"


_INVOKER = """resource "google_cloud_run_v2_service_iam_member" "x" {
  name   = google_cloud_run_v2_service.worker[0].name
  role   = "roles/run.invoker"
  member = %s
}
# Five"""
_NOBODY_ASKED = """resource "google_cloud_run_v2_service" "x" {
  name                 = "illo-worker-2"
  location             = var.region
  invoker_iam_disabled = true
}
# The workers"""
_GRANT = """resource "google_storage_bucket_iam_member" "x" {
  bucket = google_storage_bucket.results.name
  role   = "roles/storage.objectAdmin"
  member = %s
}
# Five"""
_EVERYBODY = """resource "google_cloud_run_v2_service_iam_binding" "x" {
  name    = google_cloud_run_v2_service.worker[0].name
  role    = "roles/run.invoker"
  members = [google_service_account.push.member, "allUsers"]
}
# Five"""
_LEFT = "signatures_are_left_to_cloud_run_only_where_it_asks_who_calls"
_QUOTA = "a_quota_is_named_to_those_that_ask"
_STATIC = """      env {
        name  = "ILLO_PUSH_SIGNATURES"
        value = "iam"
      }
      env {
        name = "ILLO_KEYS\""""
_MARK = '      template[0].labels["client.knative.dev/nonce"],\n'
_DEAD = 'resource "google_pubsub_subscription" "dead" {'
_BINDING = """resource "google_project_iam_binding" "x" {
  role = "roles/datastore.user"
}
# Five"""

ACCESS = [
    ("only_push_invokes_the_worker", "identities.tf", "# Five", _INVOKER % '"allUsers"'),
    ("only_push_invokes_the_worker", "identities.tf", "# Five",
     _INVOKER % "google_service_account.api.member"),
    ("only_push_invokes_the_worker", "worker.tf", "INTERNAL_ONLY", "ALL"),
    ("only_push_invokes_the_worker", "worker.tf", "deletion_protection = false",
     "invoker_iam_disabled = true"),
    ("only_push_invokes_the_worker", "worker.tf", "deletion_protection = false",
     "invoker_iam_disabled = var.github_repository == null"),
    ("only_push_invokes_the_worker", "worker.tf", "# The workers", _NOBODY_ASKED),
    ("only_push_invokes_the_worker", "pubsub.tf", "google_cloud_run_v2_service.worker[0].uri",
     "google_cloud_run_v2_service.api[0].uri"),
    ("nothing_else_is_public", "api.tf", "invoker_iam_disabled = true",
     "invoker_iam_disabled = false"),
    ("nothing_else_is_public", "identities.tf", "# Five",
     (_INVOKER % '"allUsers"').replace(".worker[0]", ".api[0]")),
    ("nothing_else_is_public", "identities.tf", "# Five", _EVERYBODY),
    ("nothing_else_is_public", "identities.tf", "# Five", _INVOKER % '"allAuthenticatedUsers"'),
    ("nothing_else_is_public", "identities.tf", "# Five", _GRANT % '"allUsers"'),
    ("nothing_else_is_public", "secrets.tf", "google_service_account.api.member",
     '"allAuthenticatedUsers"'),
    ("each_identity_may_do_what_it_needs_and_no_more", "identities.tf", "# Five", _BINDING),
    ("each_identity_may_do_what_it_needs_and_no_more", "identities.tf",
     '"roles/iam.serviceAccountUser"', '"roles/owner"'),
    ("each_identity_may_do_what_it_needs_and_no_more", "identities.tf",
     "service_account_id = google_service_account.api.name\n"
     '  role               = "roles/iam.serviceAccountTokenCreator"',
     "service_account_id = google_service_account.worker.name\n"
     '  role               = "roles/iam.serviceAccountTokenCreator"'),
    ("each_service_runs_as_its_own_identity", "worker.tf", "google_service_account.worker.email",
     "google_service_account.api.email"),
    ("the_worker_deletes_nothing", "identities.tf", "roles/storage.objectCreator",
     "roles/storage.objectUser"),
    ("the_worker_deletes_nothing", "identities.tf", "# Five",
     _GRANT % "google_service_account.worker.member"),
    ("the_scheduler_only_invokes_the_api", "identities.tf", "# Five",
     _INVOKER % "google_service_account.scheduler.member"),
    ("pubsub_itself_may_deliver", "pubsub.tf", "roles/pubsub.subscriber", "roles/pubsub.viewer"),
    ("pubsub_itself_may_deliver", "pubsub.tf", "google_pubsub_topic.dead.id\n  role",
     "google_pubsub_topic.wakes.id\n  role"),
    ("pubsub_itself_may_deliver", "pubsub.tf", "gcp-sa-pubsub", "gcp-sa-cloudscheduler"),
    ("no_bucket_is_public", "storage.tf", "uniform_bucket_level_access = true",
     "uniform_bucket_level_access = false"),
    ("no_bucket_is_public", "storage.tf", '"enforced"', '"inherited"'),
    ("secrets_are_pinned_and_readable", "api.tf", "var.keys_version", '"latest"'),
    ("secrets_are_pinned_and_readable", "variables.tf", "^[1-9][0-9]*$", "^.*$"),
    ("secrets_are_pinned_and_readable", "secrets.tf", "secretAccessor", "viewer"),
    ("no_key_material_is_in_the_files", "terraform.tfvars.example", "monthly_budget",
     'key = "-----BEGIN PRIVATE KEY-----"\nmonthly_budget'),
    ("no_key_material_is_in_the_files", "secrets.tf", "# The API",
     'resource "google_secret_manager_secret_version" "x" {\n}\n# The API'),
    ("only_one_branch_of_one_repository_deploys", "identities.tf",
     " && assertion.ref == 'refs/heads/main'", ""),
    ("only_one_branch_of_one_repository_deploys", "identities.tf", "' && assertion.ref",
     "' || assertion.ref"),
    ("only_one_branch_of_one_repository_deploys", "identities.tf",
     "/attribute.repository/${var.github_repository}", "/*"),
]  # fmt: skip

SERVICES = [
    ("the_worker_has_a_gpu_and_is_billed_by_the_instance", "worker.tf",
     "gpu_zonal_redundancy_disabled    = true", "gpu_zonal_redundancy_disabled    = false"),
    ("the_worker_has_a_gpu_and_is_billed_by_the_instance", "worker.tf",
     "cpu_idle          = false", "cpu_idle          = true"),
    ("the_worker_has_a_gpu_and_is_billed_by_the_instance", "worker.tf", "GEN2", "GEN1"),
    ("the_worker_has_a_gpu_and_is_billed_by_the_instance", "worker.tf",
     '"nvidia.com/gpu" = "1"', '"nvidia.com/gpu" = "2"'),
    ("the_worker_has_a_gpu_and_is_billed_by_the_instance", "worker.tf",
     "= var.worker_concurrency", "= 80"),
    ("the_worker_has_a_gpu_and_is_billed_by_the_instance", "worker.tf",
     "accelerator = var.worker_gpu", 'accelerator = "nvidia-t4"'),
    ("the_api_costs_nothing_while_nobody_asks", "api.tf", "cpu_idle          = true",
     "cpu_idle          = false"),
    ("bills_are_bounded", "variables.tf", "default     = 1\n  validation {\n    condition     = "
     "var.worker_max_instances", "default     = 8\n  validation {\n    condition     = "
     "var.worker_max_instances"),
    ("bills_are_bounded", "budget.tf", "FORECASTED", "CURRENT"),
    ("bills_are_bounded", "api.tf", "ILLO_GPU_SECONDS_PER_DAY ", "ILLO_GPU_SECONDS "),
    ("images_are_named_by_digest", "variables.tf", "@sha256:[0-9a-f]{64}$", ":[a-z]+$"),
    ("images_are_named_by_digest", "worker.tf", "var.worker_image", '"illo/worker:latest"'),
    ("images_are_named_by_digest", "api.tf", "      template[0].containers[0].image,\n", ""),
    ("images_are_named_by_digest", "api.tf", _MARK, ""),
    ("images_are_named_by_digest", "worker.tf", _MARK, ""),
    ("images_are_named_by_digest", "worker.tf", _MARK, "      template[0].labels,\n"),
    ("every_setting_that_is_needed_is_set", "worker.tf", "ILLO_PUSH_EMAIL ", "ILLO_PUSHER "),
    ("every_setting_that_is_needed_is_set", "api.tf", '"ILLO_KEYS"', '"ILLO_LOG_LEVEL"'),
    ("every_setting_that_is_needed_is_set", "api.tf", '    ILLO_HOST                 = "0.0.0.0"',
     ""),
    ("every_setting_that_is_needed_is_set", "api.tf", "ILLO_TOPIC  ", "PORT"),
    ("every_setting_that_is_needed_is_set", "worker.tf", '    ILLO_PUSH_SIGNATURES = "iam"',
     '    ILLO_PUSH_SIGNATURES = "iam"\n    K_SERVICE = "illo-worker"'),
    ("every_setting_that_is_needed_is_set", "worker.tf", '"iam"', '"nobody"'),
    ("every_setting_that_is_needed_is_set", "api.tf", '"gs://${google', '"${google'),
    ("both_services_agree", "worker.tf", "for_each = local.shared_environment",
     "for_each = local.worker_environment"),
    ("both_services_agree", "locals.tf", '    "ILLO_WORKERS",\n', ""),
    ("both_services_agree", "api.tf", "for_each = var.more_settings", "for_each = {}"),
    ("probes_ask_what_is_answered", "worker.tf", "/readyz", "/healthz"),
    ("probes_ask_what_is_answered", "worker.tf", "/healthz", "/alive"),
    ("probes_ask_what_is_answered", "api.tf", "/healthz", "/health"),
    ("probes_ask_what_is_answered", "worker.tf",
     "ceil(var.worker_startup_seconds / local.probe_seconds)", "24"),
    ("pushes_reach_the_worker_and_are_believed", "pubsub.tf", ".uri}/push", ".uri}/pushes"),
    ("pushes_reach_the_worker_and_are_believed", "pubsub.tf", "local.push_audience",
     "local.sweep_audience"),
    ("pushes_reach_the_worker_and_are_believed", "pubsub.tf", "google_service_account.push.email",
     "google_service_account.worker.email"),
    ("pushes_reach_the_worker_and_are_believed", "worker.tf", "[local.push_audience]", "[]"),
    ("pushes_reach_the_worker_and_are_believed", "pubsub.tf", "    oidc_token {",
     "    no_wrapper {\n      write_metadata = true\n    }\n    oidc_token {"),
    (_LEFT, "worker.tf", "deletion_protection = false", "invoker_iam_disabled = true"),
    (_LEFT, "identities.tf", "# Five", _INVOKER % '"allUsers"'),
    (_LEFT, "identities.tf", "# Five", _INVOKER % '"allAuthenticatedUsers"'),
    (_LEFT, "identities.tf", "# Five", _EVERYBODY),
    (_LEFT, "identities.tf", "member   = google_service_account.push.member",
     'member   = "allUsers"'),
    (_LEFT, "api.tf", "    ILLO_SWEEP_EMAIL ",
     '    ILLO_PUSH_SIGNATURES = "iam"\n    ILLO_SWEEP_EMAIL '),
    (_LEFT, "api.tf", "    ILLO_TOPIC ", '    ILLO_PUSH_SIGNATURES = "iam"\n    ILLO_TOPIC '),
    (_LEFT, "api.tf", '      env {\n        name = "ILLO_KEYS"', _STATIC),
    (_LEFT, "api.tf", "for_each = local.api_environment", "for_each = local.worker_environment"),
    (_LEFT, "locals.tf", '    "ILLO_PUSH_SIGNATURES",\n', ""),
    (_LEFT, "worker.tf", '    ILLO_PUSH_SIGNATURES = "iam"\n', ""),
    (_LEFT, "worker.tf", '"iam"', '"worker"'),
    ("sweeps_reach_the_api_and_are_believed", "scheduler.tf", "/internal/sweep", "/sweep"),
    ("sweeps_reach_the_api_and_are_believed", "scheduler.tf", "* * * * *", "0 * * * *"),
    ("sweeps_reach_the_api_and_are_believed", "scheduler.tf", '"180s"', '"30s"'),
    ("sweeps_reach_the_api_and_are_believed", "api.tf", '"300s"', '"60s"'),
    ("sweeps_reach_the_api_and_are_believed", "scheduler.tf", "local.sweep_audience",
     "google_cloud_run_v2_service.api[0].uri"),
    ("sweeps_reach_the_api_and_are_believed", "api.tf", "google_service_account.scheduler.email",
     "google_service_account.push.email"),
    ("deadlines_fit_each_other", "locals.tf", "ack_deadline_seconds = 600",
     "ack_deadline_seconds = 900"),
    ("deadlines_fit_each_other", "variables.tf", "var.worker_request_seconds >= 900",
     "var.worker_request_seconds >= 60"),
    ("deadlines_fit_each_other", "worker.tf", "${var.worker_request_seconds}s", "300s"),
    ("deadlines_fit_each_other", "pubsub.tf", "= local.ack_deadline_seconds", "= 10"),
    ("no_message_is_lost_in_the_queue", "pubsub.tf", _DEAD, _DEAD.replace('"dead"', '"gone"')),
    ("no_message_is_lost_in_the_queue", "pubsub.tf", "max_delivery_attempts = 100",
     "max_delivery_attempts = 5"),
    ("no_message_is_lost_in_the_queue", "pubsub.tf", 'ttl = ""', 'ttl = "86400s"'),
    ("no_message_is_lost_in_the_queue", "pubsub.tf", '"604800s"', '"600s"'),
    ("no_message_is_lost_in_the_queue", "pubsub.tf", 'minimum_backoff = "10s"',
     'minimum_backoff = "0s"'),
]  # fmt: skip

GROUND = [
    ("indexes_are_those_of_the_code", "indexes.json", '"wake_at"', '"woken_at"'),
    ("indexes_are_those_of_the_code", "firestore.tf", "for_each = local.indexes", "for_each = {}"),
    ("indexes_are_those_of_the_code", "firestore.tf", "try(fields.value.order, null)",
     '"ASCENDING"'),
    ("fields_are_exempt_and_expire_as_the_code_says", "firestore.tf",
     "for_each = local.fields", "for_each = {}"),
    ("fields_are_exempt_and_expire_as_the_code_says", "firestore.tf",
     "try(each.value.ttl, false) ? [true] : []", "[]"),
    ("fields_are_exempt_and_expire_as_the_code_says", "firestore.tf", "FIRESTORE_NATIVE",
     "DATASTORE_MODE"),
    ("fields_are_exempt_and_expire_as_the_code_says", "firestore.tf",
     '"DELETE_PROTECTION_ENABLED"', '"DELETE_PROTECTION_DISABLED"'),
    ("latents_do_not_pile_up", "locals.tf", '"7", ', ""),
    ("latents_do_not_pile_up", "locals.tf", '"9"]', "]"),
    ("latents_do_not_pile_up", "storage.tf", '["jobs/"]', '["latents/"]'),
    ("latents_do_not_pile_up", "storage.tf", "= local.latents_days", "= 1"),
    ("nothing_that_is_shown_goes_by_age", "locals.tf", '["0", ', '["0", "g", '),
    ("nothing_that_is_shown_goes_by_age", "storage.tf",
     "      matches_suffix = local.latents_endings\n", ""),
    ("nothing_that_is_shown_goes_by_age", "storage.tf", '"assets/", "batches/"]', '"batches/"]'),
    ("nothing_that_is_shown_goes_by_age", "storage.tf", "var.results_days == null ? [] : "
     "[var.results_days]", "[30]"),
    ("weights_are_kept_while_they_are_read", "storage.tf", "enabled = true", "enabled = false"),
    ("weights_are_kept_while_they_are_read", "storage.tf", "days_since_noncurrent_time = 30",
     "age = 30"),
    ("alarms_watch_what_is_logged", "alerts.tf", 'message=\\"queue\\"', 'message=\\"swept\\"'),
    ("alarms_watch_what_is_logged", "alerts.tf", "    running               =",
     "    drawing               ="),
    ("alarms_watch_what_is_logged", "alerts.tf", '= "failed_starts"', '= "broken_starts"'),
    ("alarms_watch_what_is_logged", "api.tf", '"illo-api"', '"illo"'),
    ("every_alarm_tells_somebody_what_to_do", "alerts.tf", "    gpu-seconds = {",
     "    gpu = {"),
    ("every_alarm_tells_somebody_what_to_do", "alerts.tf", "illo: dead-letters", "illo: letters"),
    ("every_alarm_tells_somebody_what_to_do", "alerts.tf",
     "notification_channels = local.channels", "notification_channels = []"),
    ("alarms_come_after_what_they_watch", "alerts.tf", " if local.serving }", " }"),
    ("alarms_come_after_what_they_watch", "alerts.tf", "  count = local.serving ? 1 : 0\n", ""),
    ("alarms_come_after_what_they_watch", "alerts.tf", "for_each = local.queue_figures",
     "for_each = { for name, figure in local.queue_figures : name => figure if local.serving }"),
    ("every_variable_is_described_checked_and_used", "variables.tf", "# --- the API",
     'variable "x" {\n  description = "x."\n  type = string\n}\n# --- the API'),
    ("every_variable_is_described_checked_and_used", "variables.tf",
     '  description = "vCPUs of an API instance."\n', ""),
    ("every_name_refers_to_something", "worker.tf", "local.port", "local.ports"),
    ("every_name_refers_to_something", "pubsub.tf", "google_pubsub_topic.dead.id",
     "google_pubsub_topic.died.id"),
    ("every_name_refers_to_something", "budget.tf", "var.monthly_budget", "var.budget"),
    ("versions_are_those_that_were_checked", "versions.tf", "~> 6.50", ">= 5"),
    ("versions_are_those_that_were_checked", "versions.tf", ">= 1.9", ">= 1.3"),
    ("every_file_opens_with_a_sentence", "budget.tf", "# Who is told", "\n# Who is told"),
]  # fmt: skip

SCHEMA = [
    ("the_provider_takes_it", "worker.tf", "gpu_zonal_redundancy_disabled",
     "gpu_zonal_redundancy_off"),
    ("the_provider_takes_it", "worker.tf", "    node_selector {", "    node {"),
    ("the_provider_takes_it", "worker.tf", "      accelerator = var.worker_gpu\n", ""),
    ("the_provider_takes_it", "worker.tf", "          path = \"/readyz\"\n",
     '          path = "/readyz"\n          paths = "/x"\n'),
    ("the_provider_takes_it", "worker.tf", "    node_selector {",
     '    node_selector {\n      accelerator = "x"\n    }\n    node_selector {'),
    ("the_provider_takes_it", "api.tf", "  location             = var.region\n", ""),
    ("the_provider_takes_it", "pubsub.tf", "max_delivery_attempts", "max_attempts"),
    ("the_provider_takes_it", "pubsub.tf", '    ttl = "" # never\n', ""),
    ("the_provider_takes_it", "storage.tf", "    action {\n      type = \"Delete\"\n    }\n", ""),
    ("the_provider_takes_it", "storage.tf", "matches_suffix", "matches_pattern"),
    ("the_provider_takes_it", "firestore.tf", "query_scope  =", "scope  ="),
    ("the_provider_takes_it", "firestore.tf", "content {}", 'content {\n      days = 1\n    }'),
    ("the_provider_takes_it", "secrets.tf", "  replication {\n    auto {}\n  }\n", ""),
    ("the_provider_takes_it", "alerts.tf", "    condition_absent {", "    condition_missing {"),
    ("the_provider_takes_it", "services.tf", "disable_on_destroy", "keep_on_destroy"),
    ("the_provider_takes_it", "registry.tf", "google_artifact_registry_repository\" \"images",
     "google_artifact_registry_repo\" \"images"),
    ("what_is_read_of_a_resource_is_told", "pubsub.tf", "worker[0].uri", "worker[0].url"),
    ("what_is_read_of_a_resource_is_told", "pubsub.tf", "google_project.illo.number",
     "google_project.illo.project_number"),
    ("what_is_read_of_a_resource_is_told", "outputs.tf", "api[*].uri", "api[*].address"),
    ("what_is_read_of_a_resource_is_told", "secrets.tf", "api.member", "api.principal"),
    (_QUOTA, "firestore.tf", "  provider = google.quota\n\n  name ", "  name "),
    (_QUOTA, "firestore.tf", "  provider = google.quota\n\n  source", "  source"),
    (_QUOTA, "budget.tf", "google.quota", "google"),
    (_QUOTA, "registry.tf", "  location ", "  provider = google.quota\n  location "),
    (_QUOTA, "versions.tf", "  user_project_override = true\n", ""),
    (_QUOTA, "versions.tf", "  billing_project       = var.project\n", ""),
]  # fmt: skip

MUTATIONS = [Mutation(*row) for row in (*ACCESS, *SERVICES, *GROUND, *SCHEMA)]
