# The service that takes events, and either takes the snapshot itself or starts the job work for it.

resource "google_cloud_run_v2_service" "events" {
  count = var.events ? 1 : 0

  project  = var.project
  name     = "${var.name}-events"
  location = var.region
  labels   = var.labels

  # The service holds nothing that could be lost: what it has promised is in the vault.
  deletion_protection = false

  template {
    service_account       = google_service_account.account[var.dispatch ? "dispatcher" : "writer"].email
    execution_environment = "EXECUTION_ENVIRONMENT_GEN2" # FUSE and NFS need it.
    timeout               = "900s"

    # Requests that come together share one run. A second instance would only read the data a second time.
    scaling {
      min_instance_count = 0
      max_instance_count = 1
    }

    containers {
      image = var.image
      # Cloud Run itself lets nobody through who is not granted to: the account push.
      args = concat(
        ["serve", "--auth=cloud-run", "--max-age=${var.max_age}"],
        var.dispatch ? [
          "--dispatch=job=${local.job_path}/${google_cloud_run_v2_job.job["work"].name}",
          "--run-timeout=${local.run_seconds}s",
        ] : [],
      )

      resources {
        limits = { cpu = tostring(var.cpu), memory = var.memory }
        # No work goes on after an answer, so the processor is paid for only while there is a request.
        cpu_idle = true
      }

      # Only whether the program runs. /health is about the vault and the data: a restart mends neither.
      liveness_probe {
        http_get {
          path = "/live"
        }
        period_seconds    = 60
        timeout_seconds   = 10
        failure_threshold = 3
      }

      dynamic "env" {
        for_each = local.variables
        content {
          name  = env.key
          value = env.value.value

          dynamic "value_source" {
            for_each = env.value.secret[*]
            content {
              secret_key_ref {
                secret  = value_source.value
                version = "latest"
              }
            }
          }
        }
      }

      dynamic "volume_mounts" {
        for_each = var.data[*]
        content {
          name       = "data"
          mount_path = "/app/data"
        }
      }
    }

    dynamic "volumes" {
      for_each = var.data[*]
      content {
        name = "data"

        dynamic "gcs" {
          for_each = volumes.value.bucket[*]
          content {
            bucket    = gcs.value
            read_only = true
            # An instance lives long. Its memory of files, a minute long by default, would hide from a snapshot what the app wrote just
            # before the event.
            mount_options = concat(["metadata-cache-ttl-secs=0"], volumes.value.mount_options)
          }
        }
        dynamic "nfs" {
          for_each = volumes.value.nfs[*]
          content {
            server    = nfs.value.server
            path      = nfs.value.path
            read_only = true
          }
        }
      }
    }

    dynamic "vpc_access" {
      for_each = local.data_network ? var.data[*] : []
      content {
        egress = "PRIVATE_RANGES_ONLY"
        network_interfaces {
          network    = vpc_access.value.network
          subnetwork = vpc_access.value.subnetwork
        }
      }
    }
  }

  # An instance does not start before it may mount the data.
  depends_on = [
    google_secret_manager_secret_iam_member.environment,
    google_storage_bucket_iam_member.create,
    google_storage_bucket_iam_member.data,
    google_storage_bucket_iam_member.read,
  ]
}

resource "google_cloud_run_v2_service_iam_member" "push" {
  count = var.events ? 1 : 0

  project  = var.project
  location = var.region
  name     = google_cloud_run_v2_service.events[0].name
  role     = "roles/run.invoker"
  member   = google_service_account.account["push"].member
}

# One variable of the job is set when it is started, LASTGOOD_CLAIM: hence with overrides.
resource "google_cloud_run_v2_job_iam_member" "dispatcher" {
  count = var.dispatch ? 1 : 0

  project  = var.project
  location = var.region
  name     = google_cloud_run_v2_job.job["work"].name
  role     = "roles/run.jobsExecutorWithOverrides"
  member   = google_service_account.account["dispatcher"].member
}
