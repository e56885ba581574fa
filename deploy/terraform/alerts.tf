# What is watched, and who is told; docs/operations.md says what to do about each.

resource "google_monitoring_notification_channel" "email" {
  for_each = var.alert_emails

  type         = "email"
  display_name = "illo: ${each.key}"
  labels = {
    email_address = each.key
  }
  depends_on = [google_project_service.needed]
}

locals {
  channels = [for channel in google_monitoring_notification_channel.email : channel.id]

  # Each sweep tells how the queue stands, in one event; a figure of it becomes a metric.
  queue_event = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"illo-api\" AND jsonPayload.message=\"queue\""
  queue_figures = {
    queued                = "Jobs that wait"
    running               = "Jobs that are being drawn"
    oldest_queued_seconds = "Seconds that the oldest of them has waited"
    failed_starts         = "Starts of a worker that failed, in a row"
    gpu_seconds_today     = "Drawing seconds since midnight UTC"
  }

  queue_alarms = {
    oldest-queued = {
      figure  = "oldest_queued_seconds"
      above   = var.longest_wait_seconds
      meaning = "A job has waited for longer than ${var.longest_wait_seconds} seconds."
    }
    failed-starts = {
      figure  = "failed_starts"
      above   = 0
      meaning = "The last start of a worker failed. After three in a row nothing is woken any more."
    }
    gpu-seconds = {
      figure  = "gpu_seconds_today"
      above   = floor(0.8 * var.gpu_seconds_per_day)
      meaning = "Four fifths of the day's ${var.gpu_seconds_per_day} drawing seconds are used up; at all of them claiming pauses to midnight UTC."
    }
  }
}

resource "google_logging_metric" "queue" {
  for_each = local.queue_figures

  name            = "illo/${each.key}"
  description     = each.value
  filter          = local.queue_event
  value_extractor = "EXTRACT(jsonPayload.${each.key})"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
  }
  bucket_options {
    exponential_buckets {
      num_finite_buckets = 40
      growth_factor      = 1.5
      scale              = 1
    }
  }
  depends_on = [google_project_service.needed]
}

# Monitoring may not know a metric of the log for ten minutes after it was made, and refuses a policy
# that asks for it: the metrics are of the ground, these come with the services.
resource "google_monitoring_alert_policy" "queue" {
  for_each = { for name, alarm in local.queue_alarms : name => alarm if local.serving }

  display_name          = "illo: ${each.key}"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = each.value.meaning
    condition_threshold {
      filter          = "resource.type=\"cloud_run_revision\" AND metric.type=\"logging.googleapis.com/user/${google_logging_metric.queue[each.value.figure].name}\""
      comparison      = "COMPARISON_GT"
      threshold_value = each.value.above
      duration        = "0s"
      # the mean of a distribution is exact, whatever its buckets; a percentile is not
      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_MEAN"
      }
    }
  }
  documentation {
    mime_type = "text/markdown"
    content   = "${each.value.meaning} See docs/operations.md, ${each.key}."
  }
  alert_strategy {
    auto_close = "3600s"
  }
}

resource "google_monitoring_alert_policy" "sweep_silent" {
  count = local.serving ? 1 : 0

  display_name          = "illo: sweep-silent"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "No sweep has told of the queue for ten minutes."
    condition_absent {
      filter   = "resource.type=\"cloud_run_revision\" AND metric.type=\"logging.googleapis.com/user/${google_logging_metric.queue["queued"].name}\""
      duration = "600s"
      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_MEAN"
      }
    }
  }
  documentation {
    mime_type = "text/markdown"
    content   = "No sweep has told of the queue for ten minutes: lost wake-ups stay lost. See docs/operations.md, sweep-silent."
  }
}

resource "google_monitoring_alert_policy" "pushes_refused" {
  display_name          = "illo: pushes-refused"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "The worker does not believe who pushes."
    condition_threshold {
      filter          = "${local.of_worker} AND metric.type=\"run.googleapis.com/request_count\" AND metric.labels.response_code=one_of(\"401\", \"403\")"
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }
  documentation {
    mime_type = "text/markdown"
    content   = "Pushes are answered 401 or 403: nothing is drawn. See docs/operations.md, pushes-refused."
  }
}

resource "google_monitoring_alert_policy" "dead_letters" {
  display_name          = "illo: dead-letters"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "Wake-ups were given up after 100 tries."
    condition_threshold {
      filter          = "resource.type=\"pubsub_subscription\" AND metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\" AND resource.labels.subscription_id=\"${google_pubsub_subscription.dead.name}\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }
  documentation {
    mime_type = "text/markdown"
    content   = "Wake-ups were given up after 100 tries. No job is lost by it. See docs/operations.md, dead-letters."
  }
}
