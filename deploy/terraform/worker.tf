# The workers: one GPU each, private, woken by pushes and scaled to zero.

locals {
  worker_environment = {
    ILLO_PUSH_AUDIENCE = local.push_audience
    ILLO_PUSH_EMAIL    = google_service_account.push.email
    # Cloud Run removes the signatures that it has verified: sound only while it asks who calls
    ILLO_PUSH_SIGNATURES = "iam"
  }
  probe_seconds = 10
}

resource "google_cloud_run_v2_service" "worker" {
  count = local.serving ? 1 : 0

  name                = "illo-worker"
  location            = var.region
  ingress             = "INGRESS_TRAFFIC_INTERNAL_ONLY" # Pub/Sub of this project counts as inside
  custom_audiences    = [local.push_audience]
  deletion_protection = false

  # of the service, not of a revision: raising it starts no new revision
  scaling {
    min_instance_count = var.worker_min_instances
  }

  template {
    service_account                  = google_service_account.worker.email
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    gpu_zonal_redundancy_disabled    = true # redundancy costs more, and a lost worker loses no job
    max_instance_request_concurrency = var.worker_concurrency
    timeout                          = "${var.worker_request_seconds}s"

    node_selector {
      accelerator = var.worker_gpu
    }
    scaling {
      max_instance_count = var.worker_max_instances
    }

    containers {
      image = var.worker_image

      ports {
        container_port = local.port
      }
      resources {
        limits = {
          cpu              = tostring(var.worker_cpu)
          memory           = "${var.worker_memory_gib}Gi"
          "nvidia.com/gpu" = "1"
        }
        cpu_idle          = false # a GPU is billed by the instance; drawing goes on past a push
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
        for_each = local.worker_environment
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

      # ready once the weights are on the device
      startup_probe {
        period_seconds    = local.probe_seconds
        timeout_seconds   = 5
        failure_threshold = ceil(var.worker_startup_seconds / local.probe_seconds)
        http_get {
          path = "/readyz"
          port = local.port
        }
      }
      # a device that hangs: the process ends itself, and this is for when it cannot
      liveness_probe {
        period_seconds    = 30
        timeout_seconds   = 10
        failure_threshold = 3
        http_get {
          path = "/healthz"
          port = local.port
        }
      }
    }
  }

  lifecycle {
    ignore_changes = [
      client,
      client_version,
      template[0].containers[0].image,
      template[0].labels["client.knative.dev/nonce"],
    ]
  }

  depends_on = [
    google_project_iam_member.worker_uses_firestore,
    google_storage_bucket_iam_member.worker_creates_results,
    google_storage_bucket_iam_member.worker_reads_results,
    google_storage_bucket_iam_member.worker_reads_weights,
    google_firestore_index.composite,
  ]
}
