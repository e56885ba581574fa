# The API: CPU only, scaled to zero, open at the edge because it checks its own keys.

locals {
  # What both services have to know, each by its name in docs/settings.md.
  shared_environment = {
    GOOGLE_CLOUD_PROJECT      = var.project
    ILLO_BACKEND              = "gcp"
    ILLO_HOST                 = "0.0.0.0"
    ILLO_BUCKET               = google_storage_bucket.results.name
    ILLO_DATABASE             = google_firestore_database.illo.name
    ILLO_TOPIC                = google_pubsub_topic.wakes.name
    ILLO_WEIGHTS              = "gs://${google_storage_bucket.weights.name}/${var.weights_folder}"
    ILLO_WORKERS              = tostring(var.worker_max_instances)
    ILLO_ACK_DEADLINE_SECONDS = tostring(local.ack_deadline_seconds)
    ILLO_RETENTION_DAYS       = tostring(var.retention_days)
    ILLO_MAX_QUEUED_HOURS     = tostring(var.max_queued_hours)
    ILLO_GPU_SECONDS_PER_DAY  = tostring(var.gpu_seconds_per_day)
    ILLO_PRICE_PER_GPU_SECOND = format("%.8f", var.instance_price_per_hour / 3600)
  }
  api_environment = {
    ILLO_HTTP_THREADS   = tostring(var.api_concurrency)
    ILLO_SWEEP_AUDIENCE = local.sweep_audience
    ILLO_SWEEP_EMAIL    = google_service_account.scheduler.email
  }
}

resource "google_cloud_run_v2_service" "api" {
  count = local.serving ? 1 : 0

  name                 = "illo-api"
  location             = var.region
  ingress              = "INGRESS_TRAFFIC_ALL"
  invoker_iam_disabled = true # whoever comes needs a key of ours; many organizations forbid allUsers
  custom_audiences     = [local.sweep_audience]
  deletion_protection  = false # nothing is in it; what lasts lies in the buckets and the database

  scaling {
    min_instance_count = var.api_min_instances
  }

  template {
    service_account                  = google_service_account.api.email
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    max_instance_request_concurrency = var.api_concurrency
    timeout                          = "300s" # the scheduler waits 180 for a sweep

    scaling {
      max_instance_count = var.api_max_instances
    }

    containers {
      image = var.api_image

      ports {
        container_port = local.port
      }
      resources {
        limits = {
          cpu    = tostring(var.api_cpu)
          memory = "${var.api_memory_mib}Mi"
        }
        cpu_idle          = true # billed while requests are answered; the scheduler calls for sweeps
        startup_cpu_boost = true
      }

      dynamic "env" {
        for_each = local.shared_environment
        content {
          name  = env.key
          value = env.value
        }
      }
      dynamic "env" {
        for_each = local.api_environment
        content {
          name  = env.key
          value = env.value
        }
      }
      dynamic "env" {
        for_each = var.more_settings
        content {
          name  = env.key
          value = env.value
        }
      }
      env {
        name = "ILLO_KEYS"
        value_source {
          secret_key_ref {
            secret  = google_secret_manager_secret.keys.secret_id
            version = var.keys_version
          }
        }
      }

      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 30
        http_get {
          path = "/healthz"
          port = local.port
        }
      }
    }
  }

  lifecycle {
    # the pipeline deploys new images, and gcloud marks each revision; this file decides all else
    ignore_changes = [
      client,
      client_version,
      template[0].containers[0].image,
      template[0].labels["client.knative.dev/nonce"],
    ]
  }

  depends_on = [
    google_project_iam_member.api_uses_firestore,
    google_secret_manager_secret_iam_member.api_reads_keys,
    google_storage_bucket_iam_member.api_reads_the_manifest,
  ]
}
