# A vault and what keeps it filled. One instance of this module is one vault in one bucket.
#
#   bucket.tf       the vault's bucket, and which of its objects are deleted, and when
#   identities.tf   the accounts, and what each may do
#   jobs.tf         the Cloud Run jobs: backup, verify, age, and where they are wanted work and restore
#   schedule.tf     when Cloud Scheduler starts them
#   events.tf       the topics, and how a message reaches the service
#   service.tf      the service that takes a snapshot at an event
#   alerts.tf       who is told when any of it stops
#   monitoring.tf   metrics from the log, a dashboard, data access logs

locals {
  bucket = coalesce(var.bucket, "${var.project}-${var.name}-vault")
  vault  = "gs://${local.bucket}/${var.prefix}"

  data_bucket = try(var.data.bucket, null)

  apis = concat(
    [
      "cloudresourcemanager.googleapis.com",
      "cloudscheduler.googleapis.com",
      "iam.googleapis.com",
      "logging.googleapis.com",
      "monitoring.googleapis.com",
      "pubsub.googleapis.com",
      "run.googleapis.com",
      "storage.googleapis.com",
    ],
    var.kms_key == null ? [] : ["cloudkms.googleapis.com"],
    length(var.secrets) == 0 ? [] : ["secretmanager.googleapis.com"],
    var.eventarc == null ? [] : ["eventarc.googleapis.com"],
  )

  data_network = try(var.data.network, null) != null || try(var.data.subnetwork, null) != null
}

resource "google_project_service" "needed" {
  for_each = toset(local.apis)

  project = var.project
  service = each.key

  # Others in the project may use it, too.
  disable_on_destroy = false
}

# The project's number names Google's service agents. This has no depends_on: with one, each change of the APIs above would hide the
# number from the plan, and the grants of all these agents would be made again.
data "google_project" "this" {
  project_id = var.project
}

locals {
  service_agent = {
    for agent in ["gcp-sa-pubsub", "gcp-sa-monitoring-notification"] :
    agent => "serviceAccount:service-${data.google_project.this.number}@${agent}.iam.gserviceaccount.com"
  }
}
