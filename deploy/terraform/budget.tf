# Who is told when a month gets dear. It stops nothing: gpu_seconds_per_day and max instances do.

resource "google_billing_budget" "month" {
  count    = var.billing_account == null ? 0 : 1
  provider = google.quota

  billing_account = var.billing_account
  display_name    = "illo in ${var.project}"

  budget_filter {
    projects = ["projects/${data.google_project.illo.number}"]
  }
  amount {
    specified_amount {
      units = tostring(var.monthly_budget)
    }
  }

  threshold_rules {
    threshold_percent = 0.5
  }
  threshold_rules {
    threshold_percent = 0.9
  }
  threshold_rules {
    threshold_percent = 1.0
  }
  threshold_rules {
    threshold_percent = 1.0
    spend_basis       = "FORECASTED_SPEND"
  }

  all_updates_rule {
    monitoring_notification_channels = [for channel in google_monitoring_notification_channel.email : channel.id]
    disable_default_iam_recipients   = false
  }

  depends_on = [google_project_service.needed]
}
