# The examples, planned. check_plans.py goes through their rules and grants, too.

mock_provider "google" {
  source          = "./tests/mocks"
  override_during = plan
}

variables {
  project     = "my-project"
  image       = "europe-west1-docker.pkg.dev/my-project/images/lastgood:1"
  data_bucket = "shop-data"
  nfs_server  = "10.0.0.2"
}

run "job_on_bucket" {
  command = plan
  module {
    source = "./examples/job-on-bucket"
  }

  assert {
    condition     = output.init == "lastgood init --vault gs://my-project-shop-vault/lastgood"
    error_message = "The vault is somewhere else."
  }
}

run "job_on_nfs" {
  command = plan
  module {
    source = "./examples/job-on-nfs"
  }

  assert {
    condition     = output.init == "lastgood init --vault gs://my-project-files-vault/lastgood"
    error_message = "The vault is somewhere else."
  }
}

run "events_only" {
  command = plan
  module {
    source = "./examples/events-only"
  }

  assert {
    condition     = startswith(output.publish_critical, "gcloud pubsub topics publish shop-events-critical ")
    error_message = "The event goes somewhere else."
  }
}

run "several_vaults" {
  command = plan
  module {
    source = "./examples/several-vaults"
  }

  assert {
    condition     = output.vaults == { blog = "gs://my-project-blog-vault/lastgood", shop = "gs://my-project-shop-vault/lastgood" }
    error_message = "The vaults do not have buckets of their own."
  }
}
