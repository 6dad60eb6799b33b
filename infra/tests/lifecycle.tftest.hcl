mock_provider "google" {
  source          = "./tests/mocks"
  override_during = plan
}

variables {
  project = "my-project"
  region  = "europe-west1"
  image   = "europe-west1-docker.pkg.dev/my-project/images/lastgood:1"
}

run "least" {
  command = plan

  assert {
    condition     = google_storage_bucket_iam_member.read["writer"].member == "serviceAccount:writer@my-project.iam.gserviceaccount.com"
    error_message = "writer: ${google_storage_bucket_iam_member.read["writer"].member}"
  }
}
