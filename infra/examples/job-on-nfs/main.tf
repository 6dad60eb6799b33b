# An app keeps its data on an NFS share, such as one of Filestore, in a network of the project. The first backup of a large share
# may take hours, so each attempt of the job has 12 of them, and events start a job as well.

variable "project" {
  type = string
}

variable "image" {
  type = string
}

variable "nfs_server" {
  description = "The address of the share's server."
  type        = string
}

provider "google" {
  project = var.project
}

module "vault" {
  source = "../.."

  project = var.project
  region  = "europe-west1"
  name    = "files"
  image   = var.image

  data = {
    nfs        = { server = var.nfs_server, path = "/share" }
    network    = "default"
    subnetwork = "default"
  }

  backup_schedule = "0 1 * * *"
  max_age         = "26h"
  timeout_seconds = 43200
  cpu             = 2
  memory          = "2Gi"
  dispatch        = true
  restore_job     = true

  # Packs that are seldom read may cost less: see the arithmetic in the description of storage_classes.
  storage_classes = [{ class = "NEARLINE", age_days = 60 }]
  alert_emails    = ["ops@example.com"]
}

output "init" {
  value = module.vault.init
}

output "restore_in_place" {
  value = module.vault.restore_in_place
}
