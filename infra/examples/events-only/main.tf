# No schedule: a snapshot is taken when the app reports a critical error, and when an upload bucket gets a new object. The alert for
# an old snapshot is set to a week, since nothing says when the next event comes.

variable "project" {
  type = string
}

variable "image" {
  type = string
}

variable "data_bucket" {
  description = "The bucket with the data."
  type        = string
}

provider "google" {
  project = var.project
}

module "vault" {
  source = "../.."

  project = var.project
  region  = "europe-west1"
  name    = "shop-events"
  image   = var.image

  data = { bucket = var.data_bucket }

  backup_schedule = null
  max_age         = "168h"

  publishers = ["serviceAccount:shop@${var.project}.iam.gserviceaccount.com"]
  eventarc = {
    filters = { type = "google.cloud.storage.object.v1.finalized", bucket = var.data_bucket }
  }
  alert_emails = ["ops@example.com"]
}

output "publish_critical" {
  value = module.vault.publish_critical
}

output "eventarc_deadline" {
  value = module.vault.eventarc_deadline
}

output "service_url" {
  value = module.vault.service_url
}
