# The examples as the first apply plans them: nothing is there yet, and of what is to be made only names are known.

mock_provider "google" {}

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
}

run "job_on_nfs" {
  command = plan
  module {
    source = "./examples/job-on-nfs"
  }
}

run "events_only" {
  command = plan
  module {
    source = "./examples/events-only"
  }
}

run "several_vaults" {
  command = plan
  module {
    source = "./examples/several-vaults"
  }
}

run "streamlit_sqlite" {
  command = plan
  module {
    source = "./examples/streamlit-sqlite"
  }
}

run "price_logger" {
  command = plan
  module {
    source = "./examples/price-logger"
  }
}
