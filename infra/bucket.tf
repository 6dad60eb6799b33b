# The vault's bucket. Nobody who runs deletes from it: these lifecycle rules alone do. A Delete rule that has lost its condition
# deletes every backup, so the numbers are constants and not variables, every rule is limited to names below the vault's prefix,
# and the postcondition refuses a plan in which one is bare.

locals {
  # The keeper releases an object by setting its customTime to now. Seven days are for changing one's mind.
  # Never 0: the provider leaves that out, and what remains of the rule deletes everything.
  # https://github.com/hashicorp/terraform-provider-google/issues/11816
  released_days = 7

  # By age alone goes what no snapshot needs: in days, by the folder below the prefix.
  short_lived = {
    claims      = 45 # Pub/Sub delivers a message again for 31 days at most.
    runs        = 90
    checkpoints = 31 # A backup takes up the checkpoints of the last days only.
  }

  # Below the folder packs alone: the index is read by every backup.
  storage_classes = [for rule in var.storage_classes : merge(rule, { prefix = "${var.prefix}/packs/" })]
}

resource "google_storage_bucket" "vault" {
  project  = var.project
  name     = local.bucket
  location = coalesce(var.location, var.region)
  labels   = var.labels

  # Grants of a bucket take conditions on object names only with uniform access.
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # A deleted object can be had back for 30 days, whoever deleted it. Versions would keep nothing more: no object is overwritten.
  soft_delete_policy {
    retention_duration_seconds = 30 * 24 * 60 * 60
  }
  versioning {
    enabled = false
  }

  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      days_since_custom_time = local.released_days
      matches_prefix         = ["${var.prefix}/"]
    }
  }

  dynamic "lifecycle_rule" {
    for_each = local.short_lived
    content {
      action {
        type = "Delete"
      }
      condition {
        age            = lifecycle_rule.value
        matches_prefix = ["${var.prefix}/${lifecycle_rule.key}/"]
      }
    }
  }

  dynamic "lifecycle_rule" {
    for_each = local.storage_classes
    content {
      action {
        type          = "SetStorageClass"
        storage_class = lifecycle_rule.value.class
      }
      condition {
        age            = lifecycle_rule.value.age_days
        matches_prefix = [lifecycle_rule.value.prefix]
      }
    }
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age            = 7
      matches_prefix = ["${var.prefix}/"]
    }
  }

  force_destroy = false

  lifecycle {
    prevent_destroy = true

    postcondition {
      # The folders are named once more, so that no other one gets into short_lived.
      condition = alltrue([
        for rule in self.lifecycle_rule :
        try(one(rule.condition).days_since_custom_time >= 7, false) || alltrue([
          try(one(rule.condition).age >= 31, false),
          try(length(one(rule.condition).matches_prefix) > 0, false),
          try(length(setsubtract(
            one(rule.condition).matches_prefix, formatlist("${var.prefix}/%s/", ["claims", "runs", "checkpoints"])
          )) == 0, false),
        ])
        if one(rule.action).type == "Delete"
      ])
      error_message = join(" ", [
        "A lifecycle rule would delete what the backups need: a Delete rule has days_since_custom_time of at least 7,",
        "or age of at least 31 and only the vault's claims/, runs/ and checkpoints/.",
      ])
    }
  }

  depends_on = [google_kms_crypto_key_iam_member.storage, google_project_service.needed]
}

# Cloud Storage's service agent, which the data source makes where there is none yet: it encrypts with the key, and it publishes
# events of objects. It has no depends_on either: see the project in main.tf.
data "google_storage_project_service_account" "this" {
  count = var.kms_key != null || local.storage_events ? 1 : 0

  project = var.project
}

# Without this grant nobody can read an object that the key encrypted, and every vault of the project with the same key has the same
# grant. So it outlasts a change of the key and the module itself: see docs/deploy.md#9-take-it-down.
resource "google_kms_crypto_key_iam_member" "storage" {
  count = var.kms_key == null ? 0 : 1

  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${data.google_storage_project_service_account.this[0].email_address}"

  depends_on = [google_project_service.needed]

  lifecycle {
    prevent_destroy = true
  }
}
