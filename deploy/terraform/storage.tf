# The two buckets: weights, which are put there once, and what is drawn and uploaded.

resource "google_storage_bucket" "weights" {
  name                        = "${var.project}-illo-weights"
  location                    = var.region # beside the workers, who read 18 GB of it at every start
  storage_class               = "STANDARD"
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # a worker that is loading goes on with the generation it began with, when newer ones are put
  versioning {
    enabled = true
  }
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      days_since_noncurrent_time = 30
      with_state                 = "ARCHIVED"
    }
  }
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 7
    }
  }

  depends_on = [google_project_service.needed]
}

# The sweep deletes what nobody reads; these rules are for what escapes it.
resource "google_storage_bucket" "results" {
  name                        = "${var.project}-illo-results"
  location                    = var.region
  storage_class               = "STANDARD"
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # deleted means deleted, and latents are rewritten all day: neither is kept, and paid for, a week
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  # Latents of attempts, which nobody can go on from any more.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age            = local.latents_days
      matches_prefix = ["jobs/"]
      matches_suffix = local.latents_endings
    }
  }
  # A batch shows its accepted takes, and needs its uploads, for as long as it is there: by age
  # alone nothing may go. What is older than everything else moves to where it costs half.
  lifecycle_rule {
    action {
      type          = "SetStorageClass"
      storage_class = "NEARLINE"
    }
    condition {
      age                   = var.retention_days + 7
      matches_prefix        = ["jobs/", "assets/", "batches/"]
      matches_storage_class = ["STANDARD"]
    }
  }
  # Unless the operator wants it so.
  dynamic "lifecycle_rule" {
    for_each = var.results_days == null ? [] : [var.results_days]
    content {
      action {
        type = "Delete"
      }
      condition {
        age            = lifecycle_rule.value
        matches_prefix = ["jobs/", "assets/"]
      }
    }
  }
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }

  depends_on = [google_project_service.needed]
}
