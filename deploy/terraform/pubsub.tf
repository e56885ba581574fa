# The queue of wake-ups, its push to the worker, and where messages end that nobody took.

locals {
  pubsub_agent = "serviceAccount:service-${data.google_project.illo.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

resource "google_pubsub_topic" "wakes" {
  name       = "illo-wakes"
  depends_on = [google_project_service.needed]
}

resource "google_pubsub_topic" "dead" {
  name       = "illo-wakes-dead"
  depends_on = [google_project_service.needed]
}

resource "google_pubsub_subscription" "push" {
  count = local.serving ? 1 : 0

  name                       = "illo-wakes-push"
  topic                      = google_pubsub_topic.wakes.id
  ack_deadline_seconds       = local.ack_deadline_seconds
  message_retention_duration = "604800s"
  enable_message_ordering    = false

  # without no_wrapper a message comes wrapped, with its number of tries
  push_config {
    push_endpoint = "${google_cloud_run_v2_service.worker[0].uri}/push"
    oidc_token {
      service_account_email = google_service_account.push.email
      audience              = local.push_audience
    }
  }
  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "60s"
  }
  # a cold start uses up tries, too: the most there can be
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead.id
    max_delivery_attempts = 100
  }
  expiration_policy {
    ttl = "" # never
  }

  depends_on = [
    google_cloud_run_v2_service_iam_member.push_invokes_worker,
    google_pubsub_topic_iam_member.agent_publishes_dead,
    google_service_account_iam_member.agent_signs_as_push,
  ]
}

# A topic without a subscription forgets what it is sent.
resource "google_pubsub_subscription" "dead" {
  name                       = "illo-wakes-dead"
  topic                      = google_pubsub_topic.dead.id
  ack_deadline_seconds       = 60
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = ""
  }
}

# --- what Pub/Sub itself may do -------------------------------------------------------------------

resource "google_pubsub_topic_iam_member" "agent_publishes_dead" {
  topic  = google_pubsub_topic.dead.id
  role   = "roles/pubsub.publisher"
  member = local.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "agent_takes_wakes" {
  count = local.serving ? 1 : 0

  subscription = google_pubsub_subscription.push[0].id
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}

resource "google_service_account_iam_member" "agent_signs_as_push" {
  service_account_id = google_service_account.push.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = local.pubsub_agent
}
