# One page: the queue, the workers, what they cost, and what goes wrong.

locals {
  of_worker = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"illo-worker\""
  of_api    = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"illo-api\""

  queue_charts = [
    for figure, meaning in local.queue_figures : {
      title   = meaning
      filter  = "resource.type=\"cloud_run_revision\" AND metric.type=\"logging.googleapis.com/user/${google_logging_metric.queue[figure].name}\""
      align   = "ALIGN_DELTA"
      reduce  = "REDUCE_MEAN"
      grouped = []
    }
  ]
  other_charts = [
    {
      title   = "Workers"
      filter  = "${local.of_worker} AND metric.type=\"run.googleapis.com/container/instance_count\""
      align   = "ALIGN_MAX"
      reduce  = "REDUCE_SUM"
      grouped = ["metric.label.state"]
    },
    {
      title   = "Worker seconds that are billed, per second"
      filter  = "${local.of_worker} AND metric.type=\"run.googleapis.com/container/billable_instance_time\""
      align   = "ALIGN_RATE"
      reduce  = "REDUCE_SUM"
      grouped = []
    },
    {
      title   = "How long a worker's start takes, median"
      filter  = "${local.of_worker} AND metric.type=\"run.googleapis.com/container/startup_latencies\""
      align   = "ALIGN_PERCENTILE_50"
      reduce  = "REDUCE_MAX"
      grouped = []
    },
    {
      title   = "Answers to pushes"
      filter  = "${local.of_worker} AND metric.type=\"run.googleapis.com/request_count\""
      align   = "ALIGN_RATE"
      reduce  = "REDUCE_SUM"
      grouped = ["metric.label.response_code"]
    },
    {
      title   = "Answers of the API"
      filter  = "${local.of_api} AND metric.type=\"run.googleapis.com/request_count\""
      align   = "ALIGN_RATE"
      reduce  = "REDUCE_SUM"
      grouped = ["metric.label.response_code_class"]
    },
    {
      title   = "Wake-ups under way, and given up"
      filter  = "resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=starts_with(\"illo-wakes\") AND metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\""
      align   = "ALIGN_MAX"
      reduce  = "REDUCE_SUM"
      grouped = ["resource.label.subscription_id"]
    },
  ]
  charts = concat(local.queue_charts, local.other_charts)
}

resource "google_monitoring_dashboard" "illo" {
  dashboard_json = jsonencode({
    displayName = "illo"
    gridLayout = {
      columns = 3
      widgets = [
        for chart in local.charts : {
          title = chart.title
          xyChart = {
            dataSets = [{
              plotType = "LINE"
              timeSeriesQuery = {
                timeSeriesFilter = {
                  filter = chart.filter
                  aggregation = {
                    alignmentPeriod    = "60s"
                    perSeriesAligner   = chart.align
                    crossSeriesReducer = chart.reduce
                    groupByFields      = chart.grouped
                  }
                }
              }
            }]
          }
        }
      ]
    }
  })
  depends_on = [google_project_service.needed]
}
