# The call for a sweep, every minute: without it a lost wake-up is lost for good.

resource "google_cloud_scheduler_job" "sweep" {
  count = local.serving ? 1 : 0

  name             = "illo-sweep"
  region           = var.region
  description      = "Repairs what messages, workers and requests have left undone"
  schedule         = "* * * * *"
  time_zone        = "Etc/UTC"
  attempt_deadline = "180s"

  retry_config {
    retry_count = 0 # the next one comes within a minute, and two at once do no harm
  }
  http_target {
    http_method = "POST"
    uri         = "${google_cloud_run_v2_service.api[0].uri}/internal/sweep"
    oidc_token {
      service_account_email = google_service_account.scheduler.email
      audience              = local.sweep_audience
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.scheduler_invokes_api]
}
