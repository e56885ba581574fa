# The API keys' hashes. Their content is added by hand and never passes through Terraform's state.

resource "google_secret_manager_secret" "keys" {
  secret_id = "illo-keys"
  replication {
    auto {}
  }
  depends_on = [google_project_service.needed]
}

resource "google_secret_manager_secret_iam_member" "api_reads_keys" {
  secret_id = google_secret_manager_secret.keys.id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.api.member
}
