output "vault" {
  description = "The vault's address."
  value       = local.vault

  depends_on = [google_storage_bucket.vault]
}

output "bucket" {
  description = "The vault's bucket."
  value       = google_storage_bucket.vault.name
}

output "accounts" {
  description = "The accounts' e-mail addresses, by what they are for."
  value       = { for use, account in google_service_account.account : use => account.email }
}

output "results_topic" {
  description = "The topic to which it is published how each run ended."
  value       = google_pubsub_topic.results.id
}

output "critical_topic" {
  description = "The topic for critical events, for `lastgood publish --topic`. `null` without events."
  value       = one(google_pubsub_topic.critical[*].id)
}

output "service_url" {
  description = "Where the service listens. `null` without events."
  value       = one(google_cloud_run_v2_service.events[*].uri)
}

# Commands, ready to paste.

locals {
  where      = "--project=${var.project} --region=${var.region}"
  test_event = jsonencode({ message = "a test", service = var.name, severity = "CRITICAL" })
}

output "init" {
  description = "Makes the vault: once, after the first apply, by a person who may create objects in the bucket."
  value       = "lastgood init --vault ${local.vault}"
}

output "back_up_now" {
  description = "Takes a snapshot now."
  value       = "gcloud run jobs execute ${google_cloud_run_v2_job.job["backup"].name} ${local.where} --args=backup,--reason=manual --wait"
}

output "list" {
  description = "Lists the snapshots."
  value       = "lastgood list --vault ${local.vault}"
}

output "restore" {
  description = "Restores the newest good snapshot into a new folder of the machine that it is pasted on."
  value       = "lastgood restore --vault ${local.vault} ./restored"
}

output "restore_in_place" {
  description = "Restores the newest good snapshot into the data's place. `null` without `restore_job`."
  value       = var.restore_job ? "gcloud run jobs execute ${google_cloud_run_v2_job.job["restore"].name} ${local.where} --wait" : null
}

output "publish_critical" {
  description = "Publishes a critical event, as an app in trouble does. `null` without events."
  value = one([
    for topic in google_pubsub_topic.critical :
    "gcloud pubsub topics publish ${topic.name} --project=${var.project} --message='${local.test_event}'"
  ])
}

# Terraform cannot say it: https://github.com/hashicorp/terraform-provider-google/issues/17701
output "eventarc_deadline" {
  description = "Has Eventarc wait ten minutes for the end of a backup: after each apply that makes its trigger. `null` without `eventarc`."
  value = one([
    for trigger in google_eventarc_trigger.events : join(" ", [
      "gcloud pubsub subscriptions update",
      "\"$(gcloud eventarc triggers describe ${trigger.name} --project=${var.project} --location=${trigger.location} --format='value(transport.pubsub.subscription)')\"",
      "--project=${var.project} --ack-deadline=600 --min-retry-delay=60s --max-retry-delay=600s",
    ])
  ])
}
