# Five identities, and all that each of them may do.

resource "google_service_account" "api" {
  account_id   = "illo-api"
  display_name = "illo: the API"
  depends_on   = [google_project_service.needed]
}

resource "google_service_account" "worker" {
  account_id   = "illo-worker"
  display_name = "illo: the workers"
  depends_on   = [google_project_service.needed]
}

resource "google_service_account" "push" {
  account_id   = "illo-push"
  display_name = "illo: pushes wake-ups to the worker"
  depends_on   = [google_project_service.needed]
}

resource "google_service_account" "scheduler" {
  account_id   = "illo-scheduler"
  display_name = "illo: calls for the sweep"
  depends_on   = [google_project_service.needed]
}

resource "google_service_account" "deployer" {
  account_id   = "illo-deployer"
  display_name = "illo: pushes images and deploys"
  depends_on   = [google_project_service.needed]
}

# --- the API --------------------------------------------------------------------------------------

resource "google_project_iam_member" "api_uses_firestore" {
  project = var.project
  role    = "roles/datastore.user"
  member  = google_service_account.api.member
}

resource "google_pubsub_topic_iam_member" "api_publishes" {
  topic  = google_pubsub_topic.wakes.id
  role   = "roles/pubsub.publisher"
  member = google_service_account.api.member
}

resource "google_storage_bucket_iam_member" "api_keeps_results" {
  bucket = google_storage_bucket.results.name
  role   = "roles/storage.objectUser"
  member = google_service_account.api.member
}

resource "google_storage_bucket_iam_member" "api_reads_the_manifest" {
  bucket = google_storage_bucket.weights.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.api.member
}

# links of 15 minutes: Cloud Run gives no key to sign them with
resource "google_service_account_iam_member" "api_signs_as_itself" {
  service_account_id = google_service_account.api.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = google_service_account.api.member
}

# --- the workers: they delete nothing ---------------------------------------------------------------

resource "google_project_iam_member" "worker_uses_firestore" {
  project = var.project
  role    = "roles/datastore.user"
  member  = google_service_account.worker.member
}

resource "google_pubsub_topic_iam_member" "worker_publishes" {
  topic  = google_pubsub_topic.wakes.id
  role   = "roles/pubsub.publisher"
  member = google_service_account.worker.member
}

resource "google_storage_bucket_iam_member" "worker_creates_results" {
  bucket = google_storage_bucket.results.name
  role   = "roles/storage.objectCreator"
  member = google_service_account.worker.member
}

resource "google_storage_bucket_iam_member" "worker_reads_results" {
  bucket = google_storage_bucket.results.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.worker.member
}

resource "google_storage_bucket_iam_member" "worker_reads_weights" {
  bucket = google_storage_bucket.weights.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.worker.member
}

# --- who may call which service -------------------------------------------------------------------

resource "google_cloud_run_v2_service_iam_member" "push_invokes_worker" {
  count = local.serving ? 1 : 0

  name     = google_cloud_run_v2_service.worker[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = google_service_account.push.member
}

# nobody is asked for this while invoker_iam_disabled stands in api.tf; sweeps outlive its removal
resource "google_cloud_run_v2_service_iam_member" "scheduler_invokes_api" {
  count = local.serving ? 1 : 0

  name     = google_cloud_run_v2_service.api[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = google_service_account.scheduler.member
}

# --- the pipeline, which proves itself by GitHub's token: there is no key to lose -------------------

resource "google_artifact_registry_repository_iam_member" "deployer_pushes_images" {
  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.deployer.member
}

resource "google_cloud_run_v2_service_iam_member" "deployer_deploys_api" {
  count = local.serving ? 1 : 0

  name     = google_cloud_run_v2_service.api[0].name
  location = var.region
  role     = "roles/run.developer"
  member   = google_service_account.deployer.member
}

resource "google_cloud_run_v2_service_iam_member" "deployer_deploys_worker" {
  count = local.serving ? 1 : 0

  name     = google_cloud_run_v2_service.worker[0].name
  location = var.region
  role     = "roles/run.developer"
  member   = google_service_account.deployer.member
}

resource "google_service_account_iam_member" "deployer_runs_as_api" {
  service_account_id = google_service_account.api.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.deployer.member
}

resource "google_service_account_iam_member" "deployer_runs_as_worker" {
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.deployer.member
}

resource "google_iam_workload_identity_pool" "github" {
  count = var.github_repository == null ? 0 : 1

  workload_identity_pool_id = "illo-github"
  display_name              = "illo: GitHub"
  depends_on                = [google_project_service.needed]
}

resource "google_iam_workload_identity_pool_provider" "github" {
  count = var.github_repository == null ? 0 : 1

  workload_identity_pool_id          = google_iam_workload_identity_pool.github[0].workload_identity_pool_id
  workload_identity_pool_provider_id = "actions"
  attribute_mapping = {
    "google.subject"       = "assertion.sub"
    "attribute.repository" = "assertion.repository"
    "attribute.ref"        = "assertion.ref"
  }
  # all of GitHub has its tokens from this issuer: only one branch of one repository is let in
  attribute_condition = "assertion.repository == '${var.github_repository}' && assertion.ref == 'refs/heads/main'"

  oidc {
    issuer_uri = "https://token.actions.githubusercontent.com"
  }
}

resource "google_service_account_iam_member" "github_is_deployer" {
  count = var.github_repository == null ? 0 : 1

  service_account_id = google_service_account.deployer.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "principalSet://iam.googleapis.com/${google_iam_workload_identity_pool.github[0].name}/attribute.repository/${var.github_repository}"
}
