# Numbers from the log, a dashboard that shows them, and logs of who read and wrote objects.

locals {
  # Metrics from lines of the log: logging.googleapis.com/user/NAME-KEY.
  log_metrics = {
    runs = {
      about = "Runs that ended, by action and result.", filter = local.run_line, value = null, unit = "1"
    }
    run-seconds = {
      about = "How long a run took.", filter = local.run_line, value = "jsonPayload.seconds", unit = "s"
    }
    sent-bytes = {
      about  = "Bytes of the objects that a backup created."
      filter = "${local.run_line} AND jsonPayload.action = \"backup\" AND jsonPayload.uploaded_bytes:*"
      value  = "jsonPayload.uploaded_bytes", unit = "By"
    }
    age-seconds = {
      about = "Age of the newest good snapshot, as the job age sees it once an hour."
      filter = join(" AND ", [
        "resource.type = \"cloud_run_job\"",
        local.age_job,
        "labels.\"dev.lastgood/writer\":*",
        "jsonPayload.newest_good_snapshot_age_seconds:*",
      ])
      value = "jsonPayload.newest_good_snapshot_age_seconds", unit = "s"
    }
  }
}

resource "google_logging_metric" "log" {
  for_each = local.log_metrics

  project         = var.project
  name            = "${var.name}-${each.key}"
  description     = each.value.about
  filter          = each.value.filter
  value_extractor = each.value.value == null ? null : "EXTRACT(${each.value.value})"

  # The age has no run.
  label_extractors = each.key == "age-seconds" ? null : {
    action = "EXTRACT(jsonPayload.action)"
    result = "EXTRACT(jsonPayload.result)"
  }

  metric_descriptor {
    metric_kind  = "DELTA"
    value_type   = each.value.value == null ? "INT64" : "DISTRIBUTION"
    unit         = each.value.unit
    display_name = "lastgood ${var.name}: ${each.value.about}"

    dynamic "labels" {
      for_each = each.key == "age-seconds" ? [] : ["action", "result"]
      content {
        key        = labels.value
        value_type = "STRING"
      }
    }
  }

  depends_on = [google_project_service.needed]
}

locals {
  # A chart of a metric: how its points of a period become one, and which series stay apart.
  chart = {
    for key, of in {
      age      = { metric = "user/${var.name}-age-seconds", align = "ALIGN_DELTA", reduce = "REDUCE_MEAN", by = [], unit = "s" }
      sent     = { metric = "user/${var.name}-sent-bytes", align = "ALIGN_DELTA", reduce = "REDUCE_MEAN", by = [], unit = "By" }
      seconds  = { metric = "user/${var.name}-run-seconds", align = "ALIGN_DELTA", reduce = "REDUCE_MEAN", by = ["action"], unit = "s" }
      runs     = { metric = "user/${var.name}-runs", align = "ALIGN_SUM", reduce = "REDUCE_SUM", by = ["action", "result"], unit = "1" }
      failures = { metric = "user/${var.name}-runs", align = "ALIGN_SUM", reduce = "REDUCE_SUM", by = ["result"], unit = "1" }
      } : key => {
      unitOverride = of.unit
      timeSeriesFilter = {
        filter = join(" AND ", concat(
          ["metric.type = \"logging.googleapis.com/${of.metric}\""],
          key == "failures" ? ["metric.labels.result != \"complete\""] : [],
        ))
        aggregation = {
          alignmentPeriod    = "3600s"
          perSeriesAligner   = of.align
          crossSeriesReducer = of.reduce
          groupByFields      = [for label in of.by : "metric.label.\"${label}\""]
        }
      }
    }
  }

  tiles = [
    { title = "Age of the newest good snapshot", query = local.chart.age, plot = "LINE" },
    { title = "Bytes sent by a backup, mean of an hour", query = local.chart.sent, plot = "STACKED_BAR" },
    { title = "How long runs took, mean of an hour", query = local.chart.seconds, plot = "LINE" },
    { title = "Runs by action and result", query = local.chart.runs, plot = "STACKED_BAR" },
    { title = "Runs that are not complete", query = local.chart.failures, plot = "STACKED_BAR" },
  ]
}

resource "google_monitoring_dashboard" "vault" {
  project = var.project

  dashboard_json = jsonencode({
    displayName = "lastgood ${var.name}"
    mosaicLayout = {
      columns = 12
      tiles = [
        for index, tile in local.tiles : merge(
          # The API leaves a 0 out, and each plan would put it back.
          { for at, value in { xPos = index % 2 * 6, yPos = floor(index / 2) * 4 } : at => value if value > 0 },
          {
            width  = 6
            height = 4
            widget = {
              title = tile.title
              xyChart = {
                dataSets = [{ timeSeriesQuery = tile.query, plotType = tile.plot, targetAxis = "Y1" }]
                yAxis    = { scale = "LINEAR" }
              }
            }
          },
        )
      ]
    }
  })

  # A chart needs a metric that is there.
  depends_on = [google_logging_metric.log]
}

# Logs of who reads and writes objects. Google knows this switch for a project's Cloud Storage as a whole, and not for a bucket; what is
# set here takes the place of what was set for Cloud Storage before.
# https://docs.cloud.google.com/logging/docs/audit/configure-data-access
resource "google_project_iam_audit_config" "storage" {
  count = var.data_access_logs ? 1 : 0

  project = var.project
  service = "storage.googleapis.com"

  audit_log_config {
    log_type = "DATA_READ"
  }
  audit_log_config {
    log_type = "DATA_WRITE"
  }
}
