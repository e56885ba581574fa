# What people and pipelines have to know after an apply.

output "api_url" {
  description = "Where the API is; null until there is one."
  value       = one(google_cloud_run_v2_service.api[*].uri)
}

output "registry" {
  description = "What the names of images begin with."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "weights" {
  description = "Where the weights belong."
  value       = "gs://${google_storage_bucket.weights.name}/${var.weights_folder}"
}

output "results_bucket" {
  description = "Where images and uploads lie."
  value       = google_storage_bucket.results.name
}

output "keys_secret" {
  description = "The secret whose versions are the API keys' hashes."
  value       = google_secret_manager_secret.keys.secret_id
}

output "topic" {
  description = "The topic of wake-ups."
  value       = google_pubsub_topic.wakes.name
}

output "dead_letters" {
  description = "The subscription that holds wake-ups nobody took."
  value       = google_pubsub_subscription.dead.name
}

output "deployer" {
  description = "The service account that the pipeline is."
  value       = google_service_account.deployer.email
}

output "identity_provider" {
  description = "What the pipeline proves itself to; null where none may deploy."
  value       = one(google_iam_workload_identity_pool_provider.github[*].name)
}
