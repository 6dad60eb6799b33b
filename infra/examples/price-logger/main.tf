# The price logger of examples/price-logger on Cloud Run, with `lastgood run` around it: its CSV and JSON files lie in the instance's
# memory, and come back from the vault whenever an instance starts. It answers no requests, and a service that listens at no port does
# not start. So it is a worker pool: an instance that runs all the time, with its processor.
#
# No account of the module can make a vault, and the logger does not start without one. So the first time:
#
#   terraform apply -target=module.vault && terraform output -raw init | sh && terraform apply
#
# What no cloud was asked about: this was planned, and not applied.

variable "project" {
  type = string
}

variable "image" {
  description = "lastgood's image, for the jobs that look after the vault."
  type        = string
}

variable "app_image" {
  description = "The app's image: `docker build -t APP_IMAGE examples/price-logger`."
  type        = string
}

provider "google" {
  project = var.project
}

module "vault" {
  source = "../.."

  project = var.project
  region  = "europe-west1"
  name    = "prices"
  image   = var.image

  # The logger takes its snapshots itself. Its data is nowhere else, so that no job and no event could take one.
  backup_schedule = null
  events          = false
  max_age         = "2h"

  alert_emails = ["ops@example.com"]
}

resource "google_cloud_run_v2_worker_pool" "prices" {
  name     = "prices"
  location = "europe-west1"

  # What could be lost is in the vault, but for what was written since the last snapshot, which the end of an instance takes.
  deletion_protection = false

  # One instance. At a deploy the new one may start before the old one has ended: it takes over from it, and the old one stops its
  # app and saves first.
  scaling {
    manual_instance_count = 1
  }

  template {
    # Creates objects in the vault, and can neither delete nor overwrite one.
    service_account = module.vault.accounts["writer"]

    containers {
      image = var.app_image
      # Cloud Run sends SIGTERM and 10 seconds later SIGKILL: `--grace` is 10 seconds unless it is given.
      command = ["lastgood", "run", "--every=30m", "--critical-on=^ERROR", "--handover=60s", "--"]
      args    = ["python", "-u", "logger.py"]

      env {
        name  = "LASTGOOD_VAULT"
        value = module.vault.vault
      }
      env {
        name  = "LASTGOOD_DATA"
        value = "/app/data"
      }
      # As the module's own jobs have it.
      env {
        name  = "LASTGOOD_SERVICE"
        value = "prices"
      }
      env {
        name  = "LASTGOOD_RESULTS_TOPIC"
        value = module.vault.results_topic
      }

      resources {
        # The data and what a restore moved aside count against the memory, too.
        limits = { cpu = "1", memory = "512Mi" }
      }
    }
  }

  # An instance does not start before it may write to the vault.
  depends_on = [module.vault]
}

output "init" {
  value = module.vault.init
}

output "vault" {
  value = module.vault.vault
}
