# What follows from the variables and from the code alone, worked out once.

locals {
  # Without images and keys there is only the ground that they need: see README.md.
  serving = var.api_image != null && var.worker_image != null && var.keys_version != null

  # Any audience will do that both ends agree on; the services' own URLs would be known too late.
  push_audience  = "https://push.illo.${var.project}"
  sweep_audience = "https://sweep.illo.${var.project}"

  # Cloud Run's own port, where both programs listen.
  port = 8080

  # Settings that something here decides; var.more_settings has the others.
  settled = [
    "ILLO_ACK_DEADLINE_SECONDS",
    "ILLO_BACKEND",
    "ILLO_BUCKET",
    "ILLO_CERTIFICATES",
    "ILLO_DATABASE",
    "ILLO_GPU_SECONDS_PER_DAY",
    "ILLO_HOST",
    "ILLO_HTTP_THREADS",
    "ILLO_KEYS",
    "ILLO_MAX_QUEUED_HOURS",
    "ILLO_PRICE_PER_GPU_SECOND",
    "ILLO_PUSH_AUDIENCE",
    "ILLO_PUSH_EMAIL",
    "ILLO_PUSH_SIGNATURES",
    "ILLO_RETENTION_DAYS",
    "ILLO_SWEEP_AUDIENCE",
    "ILLO_SWEEP_EMAIL",
    "ILLO_TOPIC",
    "ILLO_WEIGHTS",
    "ILLO_WORKERS",
  ]

  # The longest Pub/Sub has: it is also how long a push may last.
  ack_deadline_seconds = 600

  # What `illo indexes` prints; a test compares the file with the code.
  firestore = jsondecode(file("${path.module}/indexes.json"))

  indexes = {
    for index in local.firestore.indexes :
    join("-", [index.collectionGroup, join("-", [
      for field in index.fields : "${field.fieldPath}.${lower(substr(try(field.order, field.arrayConfig), 0, 1))}"
    ])]) => index
  }
  fields = {
    for field in local.firestore.fieldOverrides : "${field.collectionGroup}-${field.fieldPath}" => field
  }

  # A job that is not drawn within max_queued_hours has failed; two days more, and nobody goes on
  # from its latents.
  latents_days = ceil(var.max_queued_hours / 24) + 2
  # Lifecycle rules know beginnings and ends of names, no patterns. Of all that is stored below jobs/
  # only the names of latents end in a digit, their step's; images end in .png, .webp or .jpeg.
  latents_endings = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
}
