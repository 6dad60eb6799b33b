# The bucket and its lifecycle rules, with all variables at their extremes. check_plans.py goes through every Delete rule of each plan.

mock_provider "google" {
  source          = "./tests/mocks"
  override_during = plan
}

variables {
  project = "my-project"
  region  = "europe-west1"
  image   = "europe-west1-docker.pkg.dev/my-project/images/lastgood:1"
}

run "defaults" {
  command = plan

  assert {
    condition = jsonencode([
      for rule in google_storage_bucket.vault.lifecycle_rule : {
        type     = one(rule.action).type
        age      = one(rule.condition).age
        released = one(rule.condition).days_since_custom_time
        prefix   = one(one(rule.condition).matches_prefix)
      }
      ]) == jsonencode([
      { type = "Delete", age = null, released = 7, prefix = "lastgood/" },
      { type = "Delete", age = 31, released = null, prefix = "lastgood/checkpoints/" },
      { type = "Delete", age = 45, released = null, prefix = "lastgood/claims/" },
      { type = "Delete", age = 90, released = null, prefix = "lastgood/runs/" },
      { type = "AbortIncompleteMultipartUpload", age = 7, released = null, prefix = "lastgood/" },
    ])
    error_message = "These are not the lifecycle rules that a vault has."
  }

  assert {
    condition = alltrue([
      google_storage_bucket.vault.name == "my-project-lastgood-vault",
      google_storage_bucket.vault.location == "europe-west1",
      google_storage_bucket.vault.uniform_bucket_level_access,
      google_storage_bucket.vault.public_access_prevention == "enforced",
      google_storage_bucket.vault.soft_delete_policy[0].retention_duration_seconds == 30 * 86400,
      !google_storage_bucket.vault.versioning[0].enabled,
      !google_storage_bucket.vault.force_destroy,
      length(google_storage_bucket.vault.retention_policy) == 0,
      length(google_storage_bucket.vault.encryption) == 0,
    ])
    error_message = "The bucket is not as a vault's has to be."
  }
}

run "least" {
  command = plan

  variables {
    project             = "a-proj"
    region              = "a-b1"
    name                = "a"
    image               = "i"
    labels              = {}
    bucket              = "abc"
    prefix              = "a"
    location            = "EU"
    kms_key             = null
    readers             = []
    keeper              = false
    storage_classes     = []
    data                = null
    environment         = {}
    secrets             = {}
    backup_schedule     = null
    verify_schedule     = null
    time_zone           = "UTC"
    verify_read_percent = 0
    restore_job         = false
    cpu                 = 1
    memory              = "512Mi"
    timeout_seconds     = 300
    events              = false
    publishers          = []
    dispatch            = false
    eventarc            = null
    alert_emails        = []
    alert_topic         = null
    max_age             = "1m"
    data_access_logs    = false
  }

  assert {
    condition = toset(flatten([
      for rule in google_storage_bucket.vault.lifecycle_rule : one(rule.condition).matches_prefix
    ])) == toset(["a/", "a/checkpoints/", "a/claims/", "a/runs/"])
    error_message = "The rules are not limited to the vault."
  }
}

run "most" {
  command = plan

  variables {
    project             = "a23456789012345678901234567890"
    region              = "northamerica-northeast12"
    name                = "a234567890123456789"
    image               = "northamerica-northeast12-docker.pkg.dev/a23456789012345678901234567890/images/lastgood@sha256:0"
    labels              = { app = "shop", team = "ops" }
    bucket              = "a23456789012345678901234567890123456789012345678901234567890123"
    prefix              = "a/b.c/d-e/f_g/01234567890123456789012345678901234567890123456789012345678901234567890123456789012345"
    location            = "NORTHAMERICA-NORTHEAST1"
    kms_key             = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
    readers             = ["group:ops@example.com", "user:somebody@example.com"]
    keeper              = true
    storage_classes     = [{ class = "NEARLINE", age_days = 1 }, { class = "COLDLINE", age_days = 1 }, { class = "ARCHIVE", age_days = 36500 }]
    data                = { bucket = "data", mount_options = ["only-dir=a"], network = "n", subnetwork = "s" }
    environment         = { LASTGOOD_WEBHOOK_ON = "failure" }
    secrets             = { LASTGOOD_WEBHOOK = "webhook", LASTGOOD_PING = "ping" }
    backup_schedule     = "* * * * *"
    verify_schedule     = "* * * * *"
    time_zone           = "America/Argentina/ComodRivadavia"
    verify_read_percent = 100
    restore_job         = true
    cpu                 = 8
    memory              = "32Gi"
    timeout_seconds     = 50400
    events              = true
    publishers          = ["serviceAccount:app@p.iam.gserviceaccount.com", "group:ops@example.com"]
    dispatch            = true
    eventarc            = { filters = { type = "google.cloud.storage.object.v1.finalized", bucket = "uploads" }, location = "eu", path = "/events/verify" }
    alert_emails        = ["a@example.com", "b@example.com"]
    alert_topic         = "projects/p/topics/t"
    max_age             = "876000h"
    data_access_logs    = true
  }

  assert {
    condition = jsonencode([
      for rule in google_storage_bucket.vault.lifecycle_rule : {
        class = one(rule.action).storage_class, age = one(rule.condition).age, prefixes = one(rule.condition).matches_prefix
      } if one(rule.action).type == "SetStorageClass"
      ]) == jsonencode([
      { class = "NEARLINE", age = 1, prefixes = ["${var.prefix}/packs/"] },
      { class = "COLDLINE", age = 1, prefixes = ["${var.prefix}/packs/"] },
      { class = "ARCHIVE", age = 36500, prefixes = ["${var.prefix}/packs/"] },
    ])
    error_message = "Something else than packs changes its storage class."
  }

  assert {
    condition     = google_storage_bucket.vault.encryption[0].default_kms_key_name == var.kms_key
    error_message = "The bucket is not encrypted with the key."
  }
}

# The longest time that a job may take is not allowed together with dispatch.
run "longest_job" {
  command = plan

  variables {
    timeout_seconds = 604800
    data            = { nfs = { server = "10.0.0.2", path = "/share" }, network = "default" }
  }
}

# Folders of a vault that are not short-lived, and names that only hold those of the ones that are.
run "prefix_like_folders" {
  command = plan

  variables {
    prefix = "packs/claims-2026/my.runs"
  }
}

# The memory that Cloud Run takes with each number of processors, where least and most do not have it.
run "most_memory_of_one_processor" {
  command = plan

  variables {
    cpu    = 1
    memory = "4Gi"
  }
}

run "most_memory_of_two" {
  command = plan

  variables {
    cpu    = 2
    memory = "8192Mi"
  }
}

run "least_memory_of_four" {
  command = plan

  variables {
    cpu    = 4
    memory = "2Gi"
  }
}

run "most_memory_of_four" {
  command = plan

  variables {
    cpu    = 4
    memory = "16Gi"
  }
}

run "least_memory_of_six" {
  command = plan

  variables {
    cpu    = 6
    memory = "4Gi"
  }
}

run "most_memory_of_six" {
  command = plan

  variables {
    cpu    = 6
    memory = "24Gi"
  }
}

run "least_memory_of_eight" {
  command = plan

  variables {
    cpu    = 8
    memory = "4096Mi"
  }
}
