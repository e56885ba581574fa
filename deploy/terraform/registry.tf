# Where the two images lie.

resource "google_artifact_registry_repository" "images" {
  repository_id = "illo"
  location      = var.region
  format        = "DOCKER"
  description   = "illo's two images, api and worker"

  # Cloud Run keeps its own copy of what a serving revision runs, so none is taken from under it.
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      older_than = "7776000s" # 90 days
    }
  }
  cleanup_policies {
    id     = "keep-recent"
    action = "KEEP"
    most_recent_versions {
      keep_count = 20
    }
  }

  depends_on = [google_project_service.needed]
}
