# The page of notes of examples/streamlit-sqlite as a Cloud Run service, with `lastgood run` around it: the database lies in the
# instance's memory, and comes back from the vault whenever an instance starts.
#
# No account of the module can make a vault, and the service does not start without one. So the first time:
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
  description = "The app's image: `docker build -t APP_IMAGE examples/streamlit-sqlite`."
  type        = string
}

provider "google" {
  project = var.project
}

module "vault" {
  source = "../.."

  project = var.project
  region  = "europe-west1"
  name    = "notes"
  image   = var.image

  # The service takes its snapshots itself. Its data is nowhere else, so that no job and no event could take one.
  backup_schedule = null
  events          = false
  max_age         = "2h"

  alert_emails = ["ops@example.com"]
}

resource "google_cloud_run_v2_service" "notes" {
  name     = "notes"
  location = "europe-west1"

  # What could be lost is in the vault, but for what was written since the last snapshot, which the end of an instance takes.
  deletion_protection = false

  template {
    # Creates objects in the vault, and can neither delete nor overwrite one.
    service_account       = module.vault.accounts["writer"]
    execution_environment = "EXECUTION_ENVIRONMENT_GEN2"
    # Streamlit keeps a WebSocket open for each visitor. This is the longest time that Cloud Run gives.
    timeout = "3600s"

    # One instance of each revision. At a deploy two revisions overlap: the new one takes over from the old one, which stops its app
    # and saves first.
    scaling {
      min_instance_count = 1
      max_instance_count = 1
    }

    containers {
      image = var.app_image
      # Cloud Run sends SIGTERM and 10 seconds later SIGKILL: `--grace` is 10 seconds unless it is given.
      command = ["lastgood", "run", "--every=30m", "--handover=60s", "--"]
      args    = ["sh", "-c", "exec streamlit run app.py --server.headless true --server.port $PORT"]

      # `run` gives the app its environment. Cloud Run sets PORT and K_SERVICE.
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
        value = "notes"
      }
      env {
        name  = "LASTGOOD_RESULTS_TOPIC"
        value = module.vault.results_topic
      }

      resources {
        # The data and what a restore moved aside count against the memory, too.
        limits = { cpu = "1", memory = "1Gi" }
        # As `--no-cpu-throttling`: without a processor between two requests nothing is saved, and no handover is seen.
        cpu_idle          = false
        startup_cpu_boost = true
      }

      # The handover, the restore and the app's start have to fit into 240 seconds, the longest time that Cloud Run gives.
      startup_probe {
        http_get {
          path = "/_stcore/health"
        }
        period_seconds    = 5
        timeout_seconds   = 5
        failure_threshold = 48
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

# Nobody may call it yet: `gcloud run services proxy notes` shows it to whoever may, and a grant of roles/run.invoker opens it.
output "url" {
  value = google_cloud_run_v2_service.notes.uri
}
