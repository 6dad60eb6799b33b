# Values that are refused. Each variable in expect_failures has to fail, or the run does. A variable that is judged
# together with another one has a run of its own: Terraform does not look at it when the other one is wrong.

mock_provider "google" {
  source          = "./tests/mocks"
  override_during = plan
}

variables {
  project = "my-project"
  region  = "europe-west1"
  image   = "europe-west1-docker.pkg.dev/my-project/images/lastgood:1"
}

run "no_prefix" {
  command = plan
  variables {
    prefix = ""
  }
  expect_failures = [var.prefix]
}

run "prefix_with_a_slash_at_its_end" {
  command = plan
  variables {
    prefix = "app/"
  }
  expect_failures = [var.prefix]
}

run "prefix_with_a_slash_at_its_beginning" {
  command = plan
  variables {
    prefix = "/app"
  }
  expect_failures = [var.prefix]
}

run "prefix_with_an_empty_part" {
  command = plan
  variables {
    prefix = "a//b"
  }
  expect_failures = [var.prefix]
}

run "prefix_upwards" {
  command = plan
  variables {
    prefix = "a/../b"
  }
  expect_failures = [var.prefix]
}

# It would end the string in a condition.
run "prefix_with_a_quote" {
  command = plan
  variables {
    prefix = "a\") || resource.name.startsWith(\""
  }
  expect_failures = [var.prefix]
}

run "prefix_that_is_too_long" {
  command = plan
  variables {
    prefix = join("", [for n in range(101) : "a"])
  }
  expect_failures = [var.prefix]
}

# A vault in a/claims that is moved to the prefix a would be deleted, by the rule that a new vault's claims in a/claims/ have.
run "prefix_that_is_a_short_lived_folder" {
  command = plan
  variables {
    prefix = "claims"
  }
  expect_failures = [var.prefix]
}

run "prefix_that_ends_in_a_short_lived_folder" {
  command = plan
  variables {
    prefix = "shop/runs"
  }
  expect_failures = [var.prefix]
}

run "prefix_in_a_short_lived_folder" {
  command = plan
  variables {
    prefix = "packs/checkpoints/shop"
  }
  expect_failures = [var.prefix]
}

run "other_values" {
  command = plan

  variables {
    project             = "My Project"
    region              = "europe"
    name                = "a2345678901234567890"
    image               = ""
    bucket              = "A.b"
    kms_key             = "key"
    readers             = ["allAuthenticatedUsers"]
    storage_classes     = [{ class = "STANDARD", age_days = 1 }]
    environment         = { LASTGOOD_VAULT = "gs://other/vault" }
    backup_schedule     = "hourly"
    verify_schedule     = "* * *"
    time_zone           = "CEST +1"
    verify_read_percent = 101
    cpu                 = 3
    timeout_seconds     = 10
    publishers          = ["allUsers"]
    alert_emails        = ["ops"]
    alert_topic         = "ops"
    max_age             = "1 day"
  }

  expect_failures = [
    var.alert_emails,
    var.alert_topic,
    var.backup_schedule,
    var.bucket,
    var.cpu,
    var.environment,
    var.image,
    var.kms_key,
    var.max_age,
    var.name,
    var.project,
    var.publishers,
    var.readers,
    var.region,
    var.storage_classes,
    var.time_zone,
    var.timeout_seconds,
    var.verify_read_percent,
    var.verify_schedule,
  ]
}

run "a_restore_to_nowhere" {
  command = plan
  variables {
    restore_job = true
  }
  expect_failures = [var.restore_job]
}

run "secret_in_the_place_of_the_vault" {
  command = plan
  variables {
    secrets = { LASTGOOD_VAULT = "vault" }
  }
  expect_failures = [var.secrets]
}

# Variables that Cloud Run sets itself, and names that are none.
run "environment_with_port" {
  command = plan
  variables {
    environment = { PORT = "x" }
  }
  expect_failures = [var.environment]
}

run "secret_as_port" {
  command = plan
  variables {
    secrets = { PORT = "x" }
  }
  expect_failures = [var.secrets]
}

run "environment_with_k_service" {
  command = plan
  variables {
    environment = { K_SERVICE = "x" }
  }
  expect_failures = [var.environment]
}

run "environment_with_k_revision" {
  command = plan
  variables {
    environment = { K_REVISION = "x" }
  }
  expect_failures = [var.environment]
}

run "environment_with_k_configuration" {
  command = plan
  variables {
    environment = { K_CONFIGURATION = "x" }
  }
  expect_failures = [var.environment]
}

run "environment_with_cloud_run_execution" {
  command = plan
  variables {
    environment = { CLOUD_RUN_EXECUTION = "x" }
  }
  expect_failures = [var.environment]
}

run "secret_as_cloud_run_execution" {
  command = plan
  variables {
    secrets = { CLOUD_RUN_EXECUTION = "x" }
  }
  expect_failures = [var.secrets]
}

run "environment_with_a_name_that_is_none" {
  command = plan
  variables {
    environment = { "A-B" = "x" }
  }
  expect_failures = [var.environment]
}

run "environment_with_a_name_that_begins_with_a_digit" {
  command = plan
  variables {
    environment = { "1A" = "x" }
  }
  expect_failures = [var.environment]
}

run "secret_with_a_name_that_is_none" {
  command = plan
  variables {
    secrets = { "A.B" = "x" }
  }
  expect_failures = [var.secrets]
}

run "secret_of_another_project" {
  command = plan
  variables {
    secrets = { LASTGOOD_WEBHOOK = "projects/p/secrets/s" }
  }
  expect_failures = [var.secrets]
}

run "storage_class_of_no_age" {
  command = plan
  variables {
    storage_classes = [{ class = "NEARLINE", age_days = 0 }]
  }
  expect_failures = [var.storage_classes]
}

run "data_nowhere" {
  command = plan
  variables {
    data = {}
  }
  expect_failures = [var.data]
}

run "data_in_two_places" {
  command = plan
  variables {
    data = { bucket = "data", nfs = { server = "10.0.0.2", path = "/" }, network = "default" }
  }
  expect_failures = [var.data]
}

run "share_without_a_network" {
  command = plan
  variables {
    data = { nfs = { server = "10.0.0.2", path = "/" } }
  }
  expect_failures = [var.data]
}

run "data_in_the_vault" {
  command = plan
  variables {
    data = { bucket = "my-project-lastgood-vault" }
  }
  expect_failures = [var.data]
}

run "no_events_to_dispatch" {
  command = plan
  variables {
    events   = false
    dispatch = true
  }
  expect_failures = [var.dispatch]
}

run "runs_that_outlast_their_message" {
  command = plan
  variables {
    dispatch        = true
    timeout_seconds = 50401
  }
  expect_failures = [var.dispatch]
}

run "eventarc_without_a_service" {
  command = plan
  variables {
    events   = false
    eventarc = { filters = { type = "google.cloud.pubsub.topic.v1.messagePublished" } }
  }
  expect_failures = [var.eventarc]
}

run "eventarc_of_no_type" {
  command = plan
  variables {
    eventarc = { filters = {} }
  }
  expect_failures = [var.eventarc]
}

run "eventarc_to_another_path" {
  command = plan
  variables {
    eventarc = { filters = { type = "google.cloud.pubsub.topic.v1.messagePublished" }, path = "/" }
  }
  expect_failures = [var.eventarc]
}

# Each backup would write objects whose events ask for the next one.
run "eventarc_on_the_vault" {
  command = plan
  variables {
    eventarc = { filters = { type = "google.cloud.storage.object.v1.finalized", bucket = "my-project-lastgood-vault" } }
  }
  expect_failures = [var.eventarc]
}

run "eventarc_on_a_vault_with_a_name_of_its_own" {
  command = plan
  variables {
    bucket   = "backups"
    eventarc = { filters = { type = "google.cloud.storage.object.v1.finalized", bucket = "backups" } }
  }
  expect_failures = [var.eventarc]
}

run "eventarc_on_what_is_logged_of_the_vault" {
  command = plan
  variables {
    eventarc = {
      filters = {
        type         = "google.cloud.audit.log.v1.written"
        serviceName  = "storage.googleapis.com"
        methodName   = "storage.objects.create"
        resourceName = "projects/_/buckets/my-project-lastgood-vault/objects/lastgood/vault.json"
      }
    }
  }
  expect_failures = [var.eventarc]
}

run "one_variable_from_two_places" {
  command = plan
  variables {
    environment = { LASTGOOD_WEBHOOK = "https://example.com" }
    secrets     = { LASTGOOD_WEBHOOK = "webhook" }
  }
  expect_failures = [var.secrets]
}

run "memory_in_another_unit" {
  command = plan
  variables {
    memory = "1GB"
  }
  expect_failures = [var.memory]
}

# Memory outside of what Cloud Run takes with that many processors. `least` and `most` in lifecycle.tftest.hcl are at the limits.
run "too_little_memory_for_the_second_generation" {
  command = plan
  variables {
    cpu    = 1
    memory = "511Mi"
  }
  expect_failures = [var.memory]
}

run "too_much_memory_for_one_processor" {
  command = plan
  variables {
    cpu    = 1
    memory = "4097Mi"
  }
  expect_failures = [var.memory]
}

run "too_much_memory_for_two" {
  command = plan
  variables {
    cpu    = 2
    memory = "9Gi"
  }
  expect_failures = [var.memory]
}

run "too_little_memory_for_four" {
  command = plan
  variables {
    cpu    = 4
    memory = "2047Mi"
  }
  expect_failures = [var.memory]
}

run "too_much_memory_for_four" {
  command = plan
  variables {
    cpu    = 4
    memory = "17Gi"
  }
  expect_failures = [var.memory]
}

run "too_little_memory_for_six" {
  command = plan
  variables {
    cpu    = 6
    memory = "3Gi"
  }
  expect_failures = [var.memory]
}

run "too_much_memory_for_six" {
  command = plan
  variables {
    cpu    = 6
    memory = "25Gi"
  }
  expect_failures = [var.memory]
}

run "too_little_memory_for_eight" {
  command = plan
  variables {
    cpu    = 8
    memory = "4095Mi"
  }
  expect_failures = [var.memory]
}

run "too_much_memory_for_eight" {
  command = plan
  variables {
    cpu    = 8
    memory = "33Gi"
  }
  expect_failures = [var.memory]
}

run "an_age_that_the_program_does_not_take" {
  command = plan
  variables {
    max_age = "876000h1m"
  }
  expect_failures = [var.max_age]
}

run "an_age_of_many_minutes" {
  command = plan
  variables {
    max_age = "52560001m"
  }
  expect_failures = [var.max_age]
}
