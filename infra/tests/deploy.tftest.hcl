# The jobs, their schedules, the service, the alerts, and the commands of the outputs.

mock_provider "google" {
  source          = "./tests/mocks"
  override_during = plan
}

variables {
  project = "my-project"
  region  = "europe-west1"
  name    = "shop"
  image   = "europe-west1-docker.pkg.dev/my-project/images/lastgood:1"
  data    = { bucket = "shop-data", mount_options = ["only-dir=app"] }
}

run "jobs" {
  command = plan

  assert {
    condition = jsonencode({
      for key, job in google_cloud_run_v2_job.job : key => {
        args    = job.template[0].template[0].containers[0].args
        account = split("@", job.template[0].template[0].service_account)[0]
        retries = job.template[0].template[0].max_retries
        timeout = job.template[0].template[0].timeout
        data    = [for volume in job.template[0].template[0].volumes : { bucket = volume.gcs[0].bucket, read_only = volume.gcs[0].read_only }]
      }
      }) == jsonencode({
      age = {
        args = ["doctor", "--only=age", "--max-age=26h"], account = "restorer", retries = 1, timeout = "300s", data = []
      }
      backup = {
        args = ["backup", "--reason=schedule"], account = "writer", retries = 3, timeout = "3600s"
        data = [{ bucket = "shop-data", read_only = true }]
      }
      verify = { args = ["verify", "--read-data=10"], account = "writer", retries = 0, timeout = "3600s", data = [] }
    })
    error_message = "The jobs are not what they have to be."
  }

  # A result that is accepted would be hidden: a run that is not complete has to fail its execution.
  assert {
    condition = alltrue([
      for job in google_cloud_run_v2_job.job : alltrue([
        for arg in job.template[0].template[0].containers[0].args : !strcontains(arg, "exit-zero") && !strcontains(arg, "--init")
      ])
    ])
    error_message = "A job hides a result, or makes a vault."
  }

  assert {
    condition = { for variable in google_cloud_run_v2_job.job["backup"].template[0].template[0].containers[0].env : variable.name => variable.value } == {
      GOOGLE_CLOUD_PROJECT   = "my-project"
      LASTGOOD_RESULTS_TOPIC = "projects/my-project/topics/a-topic"
      LASTGOOD_SERVICE       = "shop"
      LASTGOOD_VAULT         = "gs://my-project-shop-vault/lastgood"
    }
    error_message = "The environment is not what it has to be."
  }

  assert {
    condition = alltrue([
      one(google_cloud_run_v2_job.job["backup"].template[0].template[0].containers[0].volume_mounts).mount_path == "/app/data",
      one(google_cloud_run_v2_job.job["backup"].template[0].template[0].volumes).gcs[0].mount_options == tolist(["only-dir=app"]),
      !google_cloud_run_v2_job.job["backup"].deletion_protection,
      length(google_cloud_run_v2_job.job["backup"].template[0].template[0].vpc_access) == 0,
    ])
    error_message = "The data is not mounted as it has to be."
  }
}

run "schedule" {
  command = plan

  assert {
    condition = { for key, entry in google_cloud_scheduler_job.start : key => "${entry.schedule} ${entry.time_zone}" } == {
      age    = "17 * * * * Etc/UTC"
      backup = "0 */6 * * * Etc/UTC"
      verify = "30 3 * * 0 Etc/UTC"
    }
    error_message = "The schedules are not what they have to be."
  }

  assert {
    condition = alltrue([
      for key, entry in google_cloud_scheduler_job.start : alltrue([
        entry.http_target[0].uri == "https://run.googleapis.com/v2/projects/my-project/locations/europe-west1/jobs/shop-${key}:run",
        entry.http_target[0].http_method == "POST",
        entry.http_target[0].oauth_token[0].service_account_email == google_service_account.account["scheduler"].email,
        length(entry.http_target[0].oidc_token) == 0,
        entry.retry_config[0].retry_count == 3,
        google_cloud_run_v2_job_iam_member.scheduler[key].name == "shop-${key}",
      ])
    ])
    error_message = "Cloud Scheduler does not start the jobs as it has to."
  }
}

run "by_no_schedule" {
  command = plan

  variables {
    backup_schedule = null
    verify_schedule = null
    time_zone       = "Europe/Paris"
  }

  # The age is looked at all the same.
  assert {
    condition     = keys(google_cloud_scheduler_job.start) == ["age"] && google_cloud_scheduler_job.start["age"].time_zone == "Europe/Paris"
    error_message = "Something else than the age has a schedule."
  }
}

run "events" {
  command = plan

  assert {
    condition = alltrue([
      google_pubsub_subscription.critical[0].ack_deadline_seconds == 600,
      google_pubsub_subscription.critical[0].retry_policy[0].minimum_backoff == "60s",
      google_pubsub_subscription.critical[0].retry_policy[0].maximum_backoff == "600s",
      google_pubsub_subscription.critical[0].dead_letter_policy[0].max_delivery_attempts == 20,
      google_pubsub_subscription.critical[0].expiration_policy[0].ttl == "",
      google_pubsub_subscription.dead[0].expiration_policy[0].ttl == "",
      google_pubsub_subscription.dead[0].message_retention_duration == "2678400s",
      google_pubsub_subscription.critical[0].push_config[0].push_endpoint == "https://vault-events-abcdefghij-ew.a.run.app/",
      google_pubsub_subscription.critical[0].push_config[0].oidc_token[0].audience == "https://vault-events-abcdefghij-ew.a.run.app",
      google_pubsub_subscription.critical[0].push_config[0].oidc_token[0].service_account_email == google_service_account.account["push"].email,
    ])
    error_message = "A critical event does not reach the service as it has to."
  }

  # Attempts times back-off is more than the time that a run may take.
  assert {
    condition     = google_pubsub_subscription.critical[0].dead_letter_policy[0].max_delivery_attempts * 600 > 3600
    error_message = "A message is given up while a run may go on."
  }

  assert {
    condition = alltrue([
      google_cloud_run_v2_service.events[0].template[0].service_account == google_service_account.account["writer"].email,
      google_cloud_run_v2_service.events[0].template[0].scaling[0].max_instance_count == 1,
      google_cloud_run_v2_service.events[0].template[0].timeout == "900s",
      google_cloud_run_v2_service.events[0].template[0].containers[0].args == tolist(["serve", "--auth=cloud-run", "--max-age=26h"]),
      google_cloud_run_v2_service.events[0].template[0].containers[0].liveness_probe[0].http_get[0].path == "/live",
      length(google_cloud_run_v2_service.events[0].template[0].containers[0].startup_probe) == 0,
      length(google_cloud_run_v2_service.events[0].template[0].containers[0].readiness_probe) == 0,
      google_cloud_run_v2_service.events[0].template[0].volumes[0].gcs[0].read_only,
      google_cloud_run_v2_service.events[0].template[0].volumes[0].gcs[0].mount_options == tolist(["metadata-cache-ttl-secs=0", "only-dir=app"]),
      google_cloud_run_v2_service.events[0].invoker_iam_disabled != true,
    ])
    error_message = "The service is not what it has to be."
  }

  assert {
    condition = alltrue([
      output.back_up_now == "gcloud run jobs execute shop-backup --project=my-project --region=europe-west1 --args=backup,--reason=manual --wait",
      output.restore == "lastgood restore --vault gs://my-project-shop-vault/lastgood ./restored",
      output.list == "lastgood list --vault gs://my-project-shop-vault/lastgood",
      output.init == "lastgood init --vault gs://my-project-shop-vault/lastgood",
      output.publish_critical == "gcloud pubsub topics publish shop-critical --project=my-project --message='{\"message\":\"a test\",\"service\":\"shop\",\"severity\":\"CRITICAL\"}'",
      output.restore_in_place == null,
      output.eventarc_deadline == null,
    ])
    error_message = "A command of the outputs is not ready to paste."
  }
}

run "dispatch" {
  command = plan

  variables {
    dispatch        = true
    timeout_seconds = 50400
  }

  assert {
    condition = alltrue([
      google_cloud_run_v2_service.events[0].template[0].service_account == google_service_account.account["dispatcher"].email,
      google_cloud_run_v2_service.events[0].template[0].containers[0].args == tolist([
        "serve", "--auth=cloud-run", "--max-age=26h",
        "--dispatch=job=projects/my-project/locations/europe-west1/jobs/shop-work", "--run-timeout=50400s",
      ]),
      google_cloud_run_v2_job.job["work"].template[0].template[0].containers[0].args == tolist(["dispatched"]),
      google_cloud_run_v2_job.job["work"].template[0].template[0].service_account == google_service_account.account["writer"].email,
      google_cloud_run_v2_job.job["work"].template[0].template[0].timeout == "50400s",
      google_cloud_run_v2_job_iam_member.dispatcher[0].name == "shop-work",
      google_pubsub_subscription.critical[0].dead_letter_policy[0].max_delivery_attempts * 600 > 50400,
    ])
    error_message = "The service does not start a job as it has to."
  }
}

run "on_nfs" {
  command = plan

  variables {
    data        = { nfs = { server = "10.0.0.2", path = "/share" }, network = "default", subnetwork = "europe" }
    restore_job = true
  }

  assert {
    condition = {
      for key, job in google_cloud_run_v2_job.job : key => try(one(job.template[0].template[0].volumes).nfs[0].read_only, null)
    } == { age = null, backup = true, restore = false, verify = null }
    error_message = "The share is not mounted as it has to be."
  }

  assert {
    condition = alltrue([
      one(google_cloud_run_v2_job.job["backup"].template[0].template[0].vpc_access[0].network_interfaces).network == "default",
      google_cloud_run_v2_job.job["backup"].template[0].template[0].vpc_access[0].egress == "PRIVATE_RANGES_ONLY",
      length(google_cloud_run_v2_job.job["verify"].template[0].template[0].vpc_access) == 0,
      length(google_storage_bucket_iam_member.data) == 0,
      google_cloud_run_v2_job.job["restore"].template[0].template[0].service_account == google_service_account.account["restorer"].email,
      !contains(keys(google_cloud_scheduler_job.start), "restore"),
      output.restore_in_place == "gcloud run jobs execute shop-restore --project=my-project --region=europe-west1 --wait",
    ])
    error_message = "The share is not reached as it has to be."
  }
}

run "alerts" {
  command = plan

  variables {
    alert_emails = ["ops@example.com"]
    alert_topic  = "projects/my-project/topics/ops"
    max_age      = "13h"
  }

  assert {
    condition = alltrue([
      strcontains(google_monitoring_alert_policy.age.conditions[0].condition_threshold[0].filter, "resource.labels.job_name = \"shop-age\""),
      strcontains(google_monitoring_alert_policy.age.conditions[0].condition_threshold[0].filter, "metric.labels.result = \"failed\""),
      google_monitoring_alert_policy.age.conditions[0].condition_threshold[0].evaluation_missing_data == "EVALUATION_MISSING_DATA_INACTIVE",
      google_monitoring_alert_policy.age.conditions[1].condition_absent[0].duration == "10800s",
      strcontains(google_monitoring_alert_policy.age.conditions[1].condition_absent[0].filter, "resource.labels.job_name = \"shop-age\""),
      strcontains(google_monitoring_alert_policy.run.conditions[0].condition_matched_log[0].filter, "jsonPayload.result != \"complete\""),
      strcontains(google_monitoring_alert_policy.run.conditions[0].condition_matched_log[0].filter, "resource.labels.job_name = \"shop-backup\""),
      strcontains(google_monitoring_alert_policy.run.conditions[0].condition_matched_log[0].filter, "resource.labels.service_name = \"shop-events\""),
      strcontains(google_monitoring_alert_policy.execution.conditions[0].condition_threshold[0].filter, "one_of(\"shop-backup\", \"shop-verify\")"),
      strcontains(google_monitoring_alert_policy.dead_letters[0].conditions[0].condition_threshold[0].filter, "\"shop-dead-letters\""),
      contains(google_cloud_run_v2_job.job["age"].template[0].template[0].containers[0].args, "--max-age=13h"),
      alltrue([
        for part in [
          "resource.labels.service_name = \"shop-events\"", "metric.type = \"run.googleapis.com/request_count\"",
          "metric.labels.response_code_class = \"5xx\"",
        ] : strcontains(google_monitoring_alert_policy.service[0].conditions[0].condition_threshold[0].filter, part)
      ]),
      # An event whose request takes its whole time, and that waits ten minutes between, fails at least so often in an hour.
      google_monitoring_alert_policy.service[0].conditions[0].condition_threshold[0].threshold_value < floor(3600 / (900 + 600)),
    ])
    error_message = "An alert does not look at what it has to."
  }

  assert {
    condition = alltrue([
      google_monitoring_notification_channel.email["ops@example.com"].type == "email",
      google_monitoring_alert_policy.age.alert_strategy[0].notification_channel_strategy[0].renotify_interval == "86400s",
      length(google_monitoring_alert_policy.age.alert_strategy[0].notification_channel_strategy[0].notification_channel_names) == 2,
      google_monitoring_alert_policy.run.alert_strategy[0].notification_rate_limit[0].period == "14400s",
      google_monitoring_notification_channel.topic[0].labels.topic == "projects/my-project/topics/ops",
      google_pubsub_topic_iam_member.alerts[0].topic == "projects/my-project/topics/ops",
      length(google_project_iam_audit_config.storage) == 0,
      length(jsondecode(google_monitoring_dashboard.vault.dashboard_json).mosaicLayout.tiles) == 5,
    ])
    error_message = "Nobody is told, or too much is logged."
  }

  # Each chart is of a metric that this module makes.
  assert {
    condition = alltrue([
      for tile in jsondecode(google_monitoring_dashboard.vault.dashboard_json).mosaicLayout.tiles : anytrue([
        for metric in google_logging_metric.log :
        strcontains(tile.widget.xyChart.dataSets[0].timeSeriesQuery.timeSeriesFilter.filter, "\"logging.googleapis.com/user/${metric.name}\"")
      ])
    ])
    error_message = "A chart shows a metric that nothing makes."
  }
}

run "no_events" {
  command = plan

  variables {
    events = false
  }

  assert {
    condition = alltrue([
      length(google_cloud_run_v2_service.events) == 0,
      length(google_pubsub_topic.critical) == 0,
      length(google_monitoring_alert_policy.dead_letters) == 0,
      length(google_monitoring_alert_policy.service) == 0,
      length(google_monitoring_alert_policy.age.alert_strategy) == 0,
      !contains(keys(google_service_account.account), "push"),
      output.publish_critical == null,
    ])
    error_message = "Without events there is something of events."
  }
}

run "eventarc" {
  command = plan

  variables {
    eventarc = { filters = { type = "google.cloud.storage.object.v1.finalized", bucket = "uploads" } }
  }

  assert {
    condition = alltrue([
      google_eventarc_trigger.events[0].location == "europe-west1",
      google_eventarc_trigger.events[0].destination[0].cloud_run_service[0].path == "/events/backup",
      google_eventarc_trigger.events[0].service_account == google_service_account.account["push"].email,
      length(google_project_iam_member.storage_events) == 1,
      output.eventarc_deadline == join(" ", [
        "gcloud pubsub subscriptions update",
        "\"$(gcloud eventarc triggers describe shop-events --project=my-project --location=europe-west1 --format='value(transport.pubsub.subscription)')\"",
        "--project=my-project --ack-deadline=600 --min-retry-delay=60s --max-retry-delay=600s",
      ]),
    ])
    error_message = "Events of Eventarc do not reach the service as they have to."
  }
}

run "logs_of_access" {
  command = plan

  variables {
    data_access_logs = true
  }

  assert {
    condition     = toset([for log in google_project_iam_audit_config.storage[0].audit_log_config : log.log_type]) == toset(["DATA_READ", "DATA_WRITE"])
    error_message = "Reads and writes are not logged."
  }
}

# Secrets reach every container but that of the job that only looks at the age.
run "secrets" {
  command = plan

  variables {
    secrets = { LASTGOOD_WEBHOOK = "webhook" }
  }

  assert {
    condition = alltrue([
      {
        for key, job in google_cloud_run_v2_job.job : key => [
          for variable in job.template[0].template[0].containers[0].env : variable.value_source[0].secret_key_ref[0].secret
          if variable.name == "LASTGOOD_WEBHOOK"
        ]
      } == { age = [], backup = ["webhook"], verify = ["webhook"] },
      [
        for variable in google_cloud_run_v2_service.events[0].template[0].containers[0].env : variable.value_source[0].secret_key_ref[0]
        if length(variable.value_source) > 0
      ] == [{ secret = "webhook", version = "latest" }],
      length(google_cloud_run_v2_service.events[0].template[0].containers[0].env) == 5,
    ])
    error_message = "Secrets are not where they have to be."
  }
}
