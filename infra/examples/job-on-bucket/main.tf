# An app keeps its data on a bucket that is mounted in it (Cloud Storage FUSE). A job takes a snapshot of it every six hours, and
# a service takes one at each critical event that the app publishes.

variable "project" {
  type = string
}

variable "image" {
  type = string
}

variable "data_bucket" {
  description = "The bucket that the app mounts."
  type        = string
}

provider "google" {
  project = var.project
}

module "vault" {
  source = "../.."

  project = var.project
  region  = "europe-west1"
  name    = "shop"
  image   = var.image

  data = { bucket = var.data_bucket }

  backup_schedule = "0 */6 * * *"
  max_age         = "13h"
  time_zone       = "Europe/Berlin"
  restore_job     = true

  publishers   = ["serviceAccount:shop@${var.project}.iam.gserviceaccount.com"]
  alert_emails = ["ops@example.com"]
}

output "init" {
  value = module.vault.init
}

output "back_up_now" {
  value = module.vault.back_up_now
}

output "restore_in_place" {
  value = module.vault.restore_in_place
}
