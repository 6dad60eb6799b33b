# Critical events come in, and results go out.
#
#   app ── publish ──► critical ── push, as the account push ──► the service
#                                    └─ after too many failures ──► dead letters, which a person looks at

locals {
  # A message is delivered again after 10 minutes at most, and has to outlast a run that goes on: see docs/cloud-run-service.md.
  run_seconds       = var.dispatch ? var.timeout_seconds : 3600
  delivery_attempts = min(100, max(20, ceil(local.run_seconds / 600) + 12))

  storage_events = startswith(try(var.eventarc.filters["type"], ""), "google.cloud.storage.")
}

# How each run ended. A topic without a subscription keeps nothing and costs nothing.
resource "google_pubsub_topic" "results" {
  project = var.project
  name    = "${var.name}-results"
  labels  = var.labels

  depends_on = [google_project_service.needed]
}

resource "google_pubsub_topic_iam_member" "results" {
  for_each = local.runners

  project = var.project
  topic   = google_pubsub_topic.results.name
  role    = "roles/pubsub.publisher"
  member  = google_service_account.account[each.key].member
}

resource "google_pubsub_topic" "critical" {
  count = var.events ? 1 : 0

  project = var.project
  name    = "${var.name}-critical"
  labels  = var.labels

  depends_on = [google_project_service.needed]
}

resource "google_pubsub_topic_iam_member" "publisher" {
  for_each = var.events ? var.publishers : []

  project = var.project
  topic   = google_pubsub_topic.critical[0].name
  role    = "roles/pubsub.publisher"
  member  = each.key
}

resource "google_pubsub_subscription" "critical" {
  count = var.events ? 1 : 0

  project = var.project
  name    = "${var.name}-critical"
  topic   = google_pubsub_topic.critical[0].id
  labels  = var.labels

  # No answer comes before the snapshot exists, and Pub/Sub waits for ten minutes at most.
  ack_deadline_seconds = 600
  push_config {
    push_endpoint = "${google_cloud_run_v2_service.events[0].uri}/"
    oidc_token {
      service_account_email = google_service_account.account["push"].email
      audience              = google_cloud_run_v2_service.events[0].uri
    }
  }

  retry_policy {
    minimum_backoff = "60s"
    maximum_backoff = "600s"
  }
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead[0].id
    max_delivery_attempts = local.delivery_attempts
  }

  # A subscription that nothing comes through is deleted after 31 days, unless this is empty. Critical events are rare.
  expiration_policy {
    ttl = ""
  }

  depends_on = [
    google_cloud_run_v2_service_iam_member.push,
    google_pubsub_topic_iam_member.dead,
    google_service_account_iam_member.push_token,
  ]
}

resource "google_pubsub_topic" "dead" {
  count = var.events ? 1 : 0

  project = var.project
  name    = "${var.name}-dead-letters"
  labels  = var.labels

  depends_on = [google_project_service.needed]
}

# Without a subscription a dead letter is lost.
resource "google_pubsub_subscription" "dead" {
  count = var.events ? 1 : 0

  project = var.project
  name    = "${var.name}-dead-letters"
  topic   = google_pubsub_topic.dead[0].id
  labels  = var.labels

  message_retention_duration = "2678400s" # 31 days, the longest that there is.
  expiration_policy {
    ttl = ""
  }
}

# Pub/Sub moves dead letters as its own service agent: it publishes them, and takes them from the subscription.
# https://docs.cloud.google.com/pubsub/docs/handling-failures#grant_forwarding_permissions
resource "google_pubsub_topic_iam_member" "dead" {
  count = var.events ? 1 : 0

  project = var.project
  topic   = google_pubsub_topic.dead[0].name
  role    = "roles/pubsub.publisher"
  member  = local.service_agent["gcp-sa-pubsub"]
}

resource "google_pubsub_subscription_iam_member" "dead" {
  count = var.events ? 1 : 0

  project      = var.project
  subscription = google_pubsub_subscription.critical[0].name
  role         = "roles/pubsub.subscriber"
  member       = local.service_agent["gcp-sa-pubsub"]
}

# Pub/Sub signs in as push. Google grants that by itself in most projects, and without it nothing is ever delivered.
# https://docs.cloud.google.com/pubsub/docs/authenticate-push-subscriptions
resource "google_service_account_iam_member" "push_token" {
  count = var.events ? 1 : 0

  service_account_id = google_service_account.account["push"].name
  role               = "roles/iam.serviceAccountOpenIdTokenCreator"
  member             = local.service_agent["gcp-sa-pubsub"]

  # The service agent is there when the first topic is.
  depends_on = [google_pubsub_topic.results]
}

# Events of Google's services. Both grants are on the project since Eventarc makes topics of its own, and has no lower level.
# https://docs.cloud.google.com/eventarc/docs/all-roles-permissions
resource "google_project_iam_member" "event_receiver" {
  count = var.eventarc == null ? 0 : 1

  project = var.project
  role    = "roles/eventarc.eventReceiver"
  member  = google_service_account.account["push"].member
}

# Every trigger on Cloud Storage in the project needs this grant, also those that the module did not make: hence it stays.
resource "google_project_iam_member" "storage_events" {
  count = local.storage_events ? 1 : 0

  project = var.project
  role    = "roles/pubsub.publisher"
  member  = "serviceAccount:${data.google_storage_project_service_account.this[0].email_address}"

  depends_on = [google_project_service.needed]

  lifecycle {
    prevent_destroy = true
  }
}

resource "google_eventarc_trigger" "events" {
  count = var.eventarc == null ? 0 : 1

  project         = var.project
  name            = "${var.name}-events"
  location        = coalesce(var.eventarc.location, var.region)
  service_account = google_service_account.account["push"].email
  labels          = var.labels

  dynamic "matching_criteria" {
    for_each = var.eventarc.filters
    content {
      attribute = matching_criteria.key
      value     = matching_criteria.value
    }
  }

  destination {
    cloud_run_service {
      service = google_cloud_run_v2_service.events[0].name
      region  = var.region
      path    = var.eventarc.path
    }
  }

  depends_on = [
    google_cloud_run_v2_service_iam_member.push,
    google_project_iam_member.event_receiver,
    google_project_iam_member.storage_events,
  ]
}
