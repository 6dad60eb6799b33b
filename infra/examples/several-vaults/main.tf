# Several apps, each with a vault of its own in a bucket of its own: a listing cannot be limited by the names of objects, so in a
# shared bucket every account would see its neighbours' names.

variable "project" {
  type = string
}

variable "image" {
  type = string
}

variable "apps" {
  description = "The bucket with each app's data, by the app's name."
  type        = map(string)
  default     = { shop = "my-shop-data", blog = "my-blog-data" }
}

provider "google" {
  project = var.project
}

# One topic for the alerts of all vaults.
resource "google_pubsub_topic" "alerts" {
  name = "vault-alerts"
}

module "vault" {
  source   = "../.."
  for_each = var.apps

  project = var.project
  region  = "europe-west1"
  name    = each.key
  image   = var.image

  data = { bucket = each.value }

  alert_emails = ["ops@example.com"]
  # As text, since Terraform does not know the id of a topic that it has not made yet, and has to.
  alert_topic = "projects/${var.project}/topics/${google_pubsub_topic.alerts.name}"

  # The switch is the project's, so one instance turns it on.
  data_access_logs = each.key == keys(var.apps)[0]
}

output "back_up_now" {
  value = { for app, vault in module.vault : app => vault.back_up_now }
}

output "vaults" {
  value = { for app, vault in module.vault : app => vault.vault }
}
