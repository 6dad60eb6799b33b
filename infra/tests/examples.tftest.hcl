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
  app_image   = "europe-west1-docker.pkg.dev/my-project/images/app:1"
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

run "streamlit_sqlite" {
  command = plan
  module {
    source = "./examples/streamlit-sqlite"
  }

  assert {
    condition = (
      google_cloud_run_v2_service.notes.template[0].scaling[0].max_instance_count == 1 &&
      !google_cloud_run_v2_service.notes.template[0].containers[0].resources[0].cpu_idle
    )
    error_message = "More than one instance runs the app, or it has no processor between requests."
  }
  assert {
    condition = alltrue([
      for probe in google_cloud_run_v2_service.notes.template[0].containers[0].startup_probe :
      probe.period_seconds * probe.failure_threshold == 240
    ])
    error_message = "The start has another time than the longest one."
  }
  assert {
    condition = contains(
      [for env in google_cloud_run_v2_service.notes.template[0].containers[0].env : "${env.name}=${env.value}"],
      "LASTGOOD_VAULT=gs://my-project-notes-vault/lastgood",
    )
    error_message = "The app is saved somewhere else."
  }
}

run "price_logger" {
  command = plan
  module {
    source = "./examples/price-logger"
  }

  assert {
    condition     = google_cloud_run_v2_worker_pool.prices.scaling[0].manual_instance_count == 1
    error_message = "There is not one instance."
  }
  assert {
    condition = contains(
      [for env in google_cloud_run_v2_worker_pool.prices.template[0].containers[0].env : "${env.name}=${env.value}"],
      "LASTGOOD_VAULT=gs://my-project-prices-vault/lastgood",
    )
    error_message = "The app is saved somewhere else."
  }
}
