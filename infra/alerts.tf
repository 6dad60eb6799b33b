# Alerts for when any of it stops. docs/operate.md says what to do about each.
#
#   age            the newest good snapshot is too old, or nothing looks how old it is
#   run            a run did not end complete: the log says why
#   execution      a job's execution failed, also one that was killed before it could say anything
#   dead_letters   critical events came to nothing
#   service        the service answers with errors, so that events come to nothing, those of Eventarc without a dead letter

locals {
  channels = concat(
    [for channel in google_monitoring_notification_channel.email : channel.id],
    [for channel in google_monitoring_notification_channel.topic : channel.id],
  )

  # Executions of jobs that ended, by how: https://docs.cloud.google.com/monitoring/api/metrics_gcp_p_z#gcp-run
  executions = join(" AND ", [
    "resource.type = \"cloud_run_job\"",
    "resource.labels.location = \"${var.region}\"",
    "metric.type = \"run.googleapis.com/job/completed_execution_count\"",
  ])
  age_job = "resource.labels.job_name = \"${google_cloud_run_v2_job.job["age"].name}\""

  # The one line that each run of this vault ends with, whatever ran it.
  run_line = join(" AND ", [
    "resource.type = (\"cloud_run_job\" OR \"cloud_run_revision\")",
    "(${join(" OR ", concat(
      [for job in google_cloud_run_v2_job.job : "resource.labels.job_name = \"${job.name}\""],
      [for service in google_cloud_run_v2_service.events : "resource.labels.service_name = \"${service.name}\""],
    ))})",
    "labels.\"dev.lastgood/writer\":*",
    "jsonPayload.seconds:*",
    "jsonPayload.run:*",
  ])
}

# A channel that an alert still names cannot be deleted: it goes after the alerts were changed, which is what the lifecycle does.
# https://github.com/hashicorp/terraform-provider-google/issues/3008
resource "google_monitoring_notification_channel" "email" {
  for_each = var.alert_emails

  project      = var.project
  display_name = "lastgood ${var.name}: ${each.key}"
  type         = "email"
  labels       = { email_address = each.key }

  lifecycle {
    create_before_destroy = true
  }

  depends_on = [google_project_service.needed]
}

resource "google_monitoring_notification_channel" "topic" {
  count = var.alert_topic == null ? 0 : 1

  project      = var.project
  display_name = "lastgood ${var.name}: ${var.alert_topic}"
  type         = "pubsub"
  labels       = { topic = var.alert_topic }

  lifecycle {
    create_before_destroy = true
  }

  depends_on = [google_project_service.needed]
}

# Cloud Monitoring publishes as its own service agent, which is made with the first such channel. Other vaults of the project that
# publish to the same topic have the same grant, and would fall silent without it: hence it stays.
resource "google_pubsub_topic_iam_member" "alerts" {
  count = var.alert_topic == null ? 0 : 1

  topic  = var.alert_topic
  role   = "roles/pubsub.publisher"
  member = local.service_agent["gcp-sa-monitoring-notification"]

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_monitoring_notification_channel.topic]
}

# The age is looked at by a job every hour, as Cloud Monitoring itself cannot wait for a daily backup: what is absent it notices
# for 23.5 hours at most. It notices absence only of what was there once: see README.md, "After the first apply".
resource "google_monitoring_alert_policy" "age" {
  project               = var.project
  display_name          = "lastgood ${var.name}: no good snapshot for ${var.max_age}"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = local.channels

  conditions {
    display_name = "The newest good snapshot is older than ${var.max_age}, or cannot be seen"
    condition_threshold {
      filter          = "${local.executions} AND ${local.age_job} AND metric.labels.result = \"failed\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      # Over two hours, so that a check that fails every hour is one incident. It closes when none has failed for so long: nothing is
      # written of a failure that did not happen, and without the next two lines the incident would stay open for a week.
      duration                = "60s"
      evaluation_missing_data = "EVALUATION_MISSING_DATA_INACTIVE"
      aggregations {
        alignment_period     = "7200s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  conditions {
    display_name = "Nothing has looked for three hours"
    condition_absent {
      filter   = "${local.executions} AND ${local.age_job}"
      duration = "10800s"
      aggregations {
        alignment_period     = "3600s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  # An incident is told once, however long it lasts. That there are no backups is told again every day.
  dynamic "alert_strategy" {
    for_each = length(local.channels) == 0 ? [] : [local.channels]
    content {
      notification_channel_strategy {
        notification_channel_names = alert_strategy.value
        renotify_interval          = "86400s"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      Backups of `${local.vault}` have stopped, or the job `${google_cloud_run_v2_job.job["age"].name}` that looks has. The
      snapshots in the vault are safe. `lastgood list --vault ${local.vault}` shows what there is; then see whether Cloud
      Scheduler still starts the jobs, and what the last backup logged. More: docs/operate.md#age
    EOT
  }
}

# A log-match condition and not one on the metric in monitoring.tf: a policy cannot be made for ten minutes after a metric is, so
# that the first `terraform apply` would fail: https://github.com/hashicorp/terraform-provider-google/issues/11102
# It also brings the reason along.
resource "google_monitoring_alert_policy" "run" {
  project               = var.project
  display_name          = "lastgood ${var.name}: a run is not complete"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels

  conditions {
    display_name = "A run ended with another result than complete"
    condition_matched_log {
      filter = "${local.run_line} AND jsonPayload.result:* AND jsonPayload.result != \"complete\""
      # Each combination of values is notified by itself, so these are words of which there are few, and no run and no text.
      label_extractors = {
        action = "EXTRACT(jsonPayload.action)"
        result = "EXTRACT(jsonPayload.result)"
        code   = "EXTRACT(jsonPayload.code)"
      }
    }
  }

  alert_strategy {
    # Log-match policies have to have one. Google tells of no more than 20 in a day, of all kinds together: what fails again and again
    # must not use them up. https://docs.cloud.google.com/logging/docs/alerting/log-based-incidents
    notification_rate_limit {
      period = "14400s"
    }
    auto_close = "86400s"
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      `lastgood runs RUN --vault ${local.vault}` shows the run's report, with `--json` in full. The snapshots before it are as they were.
      What to do about each result: docs/operate.md#run
    EOT
  }

  depends_on = [google_project_service.needed]
}

resource "google_monitoring_alert_policy" "execution" {
  project               = var.project
  display_name          = "lastgood ${var.name}: a job failed"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels

  conditions {
    display_name = "An execution failed in each attempt"
    condition_threshold {
      filter = "${local.executions} AND metric.labels.result = \"failed\" AND resource.labels.job_name = one_of(${join(", ", [
        for key, job in google_cloud_run_v2_job.job : "\"${job.name}\"" if key != "age"
      ])})"
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      # An incident closes a day after the last failure.
      duration                = "60s"
      evaluation_missing_data = "EVALUATION_MISSING_DATA_INACTIVE"
      aggregations {
        alignment_period     = "86400s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
        group_by_fields      = ["resource.labels.job_name"]
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      If the alert "a run is not complete" came, too, that one says why. If it did not, the run was killed: by its time limit
      (`timeout_seconds`) or for want of memory (`memory`). `gcloud run jobs executions list --region=${var.region}` shows which.
      More: docs/operate.md#execution
    EOT
  }
}

resource "google_monitoring_alert_policy" "dead_letters" {
  count = var.events ? 1 : 0

  project               = var.project
  display_name          = "lastgood ${var.name}: critical events came to nothing"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels

  conditions {
    display_name = "Dead letters wait"
    condition_threshold {
      filter = join(" AND ", [
        "resource.type = \"pubsub_subscription\"",
        "resource.labels.subscription_id = \"${google_pubsub_subscription.dead[0].name}\"",
        "metric.type = \"pubsub.googleapis.com/subscription/num_undelivered_messages\"",
      ])
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
    content   = <<-EOT
      Each was delivered ${local.delivery_attempts} times in vain. Read them, take a backup, and take them away:
      `gcloud pubsub subscriptions pull ${google_pubsub_subscription.dead[0].name} --project=${var.project} --limit=100 --auto-ack`
      More: docs/operate.md#dead_letters
    EOT
  }
}

# Eventarc delivers an event again for a day and then drops it, with no dead letter. A single error is no reason: the event comes again.
# What never reaches the service is not counted.
resource "google_monitoring_alert_policy" "service" {
  count = var.events ? 1 : 0

  project               = var.project
  display_name          = "lastgood ${var.name}: the service answers with errors"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels

  conditions {
    display_name = "More than one answer of 5xx in an hour"
    condition_threshold {
      filter = join(" AND ", [
        "resource.type = \"cloud_run_revision\"",
        "resource.labels.location = \"${var.region}\"",
        "resource.labels.service_name = \"${google_cloud_run_v2_service.events[0].name}\"",
        "metric.type = \"run.googleapis.com/request_count\"",
        "metric.labels.response_code_class = \"5xx\"",
      ])
      comparison              = "COMPARISON_GT"
      threshold_value         = 1
      duration                = "60s"
      evaluation_missing_data = "EVALUATION_MISSING_DATA_INACTIVE"
      aggregations {
        alignment_period     = "3600s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      Events are delivered and not served. With the alert "a run is not complete", that one says why; else the service's log does:
      `gcloud run services logs read ${google_cloud_run_v2_service.events[0].name} --region=${var.region} --limit=100`
      More: docs/operate.md#service
    EOT
  }
}
