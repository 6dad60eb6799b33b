# The Cloud Run jobs. Each is the image with other arguments and another account.

locals {
  jobs = merge(
    {
      backup = { args = ["backup", "--reason=schedule"], account = "writer", data = "read", retries = 3 }
      # As the writer: a pack that is found damaged is doubted in the vault, and the next backup stores its content again.
      verify = {
        args    = var.verify_read_percent == 0 ? ["verify"] : ["verify", "--read-data=${var.verify_read_percent}"]
        account = "writer", data = "none", retries = 0
      }
      # Fails when the newest good snapshot is too old, which alerts.tf waits for.
      age = { args = ["doctor", "--only=age", "--max-age=${var.max_age}"], account = "restorer", data = "none", retries = 1 }
    },
    var.dispatch ? { work = { args = ["dispatched"], account = "writer", data = "read", retries = 1 } } : {},
    var.restore_job ? { restore = { args = ["restore", "--in-place"], account = "restorer", data = "write", retries = 0 } } : {},
  )

  # The same for all that runs, so that a snapshot is of the same app whoever takes it.
  environment = merge(var.environment, {
    GOOGLE_CLOUD_PROJECT   = var.project
    LASTGOOD_RESULTS_TOPIC = google_pubsub_topic.results.id
    LASTGOOD_SERVICE       = var.name
    LASTGOOD_VAULT         = local.vault
  })
  variables = merge(
    { for name, value in local.environment : name => { value = value, secret = null } },
    { for name, secret in var.secrets : name => { value = null, secret = secret } },
  )
}

resource "google_cloud_run_v2_job" "job" {
  for_each = local.jobs

  project  = var.project
  name     = "${var.name}-${each.key}"
  location = var.region
  labels   = var.labels

  # A job holds nothing that could be lost. The default would stop `terraform destroy`, and any change that replaces it.
  deletion_protection = false

  template {
    task_count = 1

    template {
      service_account = google_service_account.account[each.value.account].email
      timeout         = each.key == "age" ? "300s" : "${var.timeout_seconds}s"
      # A retried attempt of a backup that ended makes no second one: it ends within seconds with the code of the first. Other
      # runs would be done again, which a restore must not be, so these are not retried.
      max_retries           = each.value.retries
      execution_environment = "EXECUTION_ENVIRONMENT_GEN2"

      containers {
        image = var.image
        args  = each.value.args

        resources {
          limits = { cpu = tostring(var.cpu), memory = var.memory }
        }

        dynamic "env" {
          for_each = { for name, variable in local.variables : name => variable if each.key != "age" || variable.secret == null }
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
          for_each = each.value.data == "none" ? [] : var.data[*]
          content {
            name       = "data"
            mount_path = "/app/data"
          }
        }
      }

      dynamic "volumes" {
        for_each = each.value.data == "none" ? [] : var.data[*]
        content {
          name = "data"

          dynamic "gcs" {
            for_each = volumes.value.bucket[*]
            content {
              bucket        = gcs.value
              read_only     = each.value.data == "read"
              mount_options = volumes.value.mount_options
            }
          }
          dynamic "nfs" {
            for_each = volumes.value.nfs[*]
            content {
              server    = nfs.value.server
              path      = nfs.value.path
              read_only = each.value.data == "read"
            }
          }
        }
      }

      dynamic "vpc_access" {
        for_each = each.value.data != "none" && local.data_network ? var.data[*] : []
        content {
          # Google's own services are reached without the network.
          egress = "PRIVATE_RANGES_ONLY"
          network_interfaces {
            network    = vpc_access.value.network
            subnetwork = vpc_access.value.subnetwork
          }
        }
      }
    }
  }

  # A job that is started at once finds its grants.
  depends_on = [
    google_secret_manager_secret_iam_member.environment,
    google_storage_bucket_iam_member.create,
    google_storage_bucket_iam_member.data,
    google_storage_bucket_iam_member.read,
  ]
}
