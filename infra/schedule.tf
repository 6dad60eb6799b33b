# When jobs are started. Cloud Scheduler calls the Cloud Run Admin API as the account scheduler.

locals {
  job_path = "projects/${var.project}/locations/${var.region}/jobs"

  schedules = {
    for job, schedule in {
      backup = var.backup_schedule
      verify = var.verify_schedule
      age    = "17 * * * *" # Once an hour, and not when all the world's jobs begin.
    } : job => schedule if schedule != null
  }
}

resource "google_cloud_scheduler_job" "start" {
  for_each = local.schedules

  project     = var.project
  region      = var.region
  name        = "${var.name}-${each.key}"
  description = "Starts the Cloud Run job ${google_cloud_run_v2_job.job[each.key].name}."
  schedule    = each.value
  time_zone   = var.time_zone

  # The API answers as soon as the job is started. A call that is made again, as its answer was lost, starts the job twice: that is
  # wasteful and does no harm.
  attempt_deadline = "60s"
  retry_config {
    retry_count          = 3
    min_backoff_duration = "10s"
    max_backoff_duration = "120s"
  }

  http_target {
    http_method = "POST"
    uri         = "https://run.googleapis.com/v2/${local.job_path}/${google_cloud_run_v2_job.job[each.key].name}:run"

    # A Google API takes an access token, not an ID token.
    oauth_token {
      service_account_email = google_service_account.account["scheduler"].email
      scope                 = "https://www.googleapis.com/auth/cloud-platform"
    }
  }

  depends_on = [google_cloud_run_v2_job_iam_member.scheduler]
}

resource "google_cloud_run_v2_job_iam_member" "scheduler" {
  for_each = local.schedules

  project  = var.project
  location = var.region
  name     = google_cloud_run_v2_job.job[each.key].name
  role     = "roles/run.invoker"
  member   = google_service_account.account["scheduler"].member
}
