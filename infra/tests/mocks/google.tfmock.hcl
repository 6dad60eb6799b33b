# Values that Google would tell of the resources once they are there. With these, the members of grants are known in a plan, and the
# tests read from it who is granted what.

override_data {
  target = data.google_project.this
  values = {
    number = "123456789012"
  }
}

override_data {
  target = data.google_storage_project_service_account.this
  values = {
    email_address = "service-123456789012@gs-project-accounts.iam.gserviceaccount.com"
  }
}

mock_resource "google_cloud_run_v2_service" {
  defaults = {
    uri = "https://vault-events-abcdefghij-ew.a.run.app"
  }
}

mock_resource "google_project_iam_custom_role" {
  defaults = {
    name = "projects/my-project/roles/release"
  }
}

mock_resource "google_pubsub_topic" {
  defaults = {
    id = "projects/my-project/topics/a-topic"
  }
}

override_resource {
  target = google_service_account.account["writer"]
  values = {
    email  = "writer@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:writer@my-project.iam.gserviceaccount.com"
    name   = "projects/my-project/serviceAccounts/writer@my-project.iam.gserviceaccount.com"
  }
}

override_resource {
  target = google_service_account.account["restorer"]
  values = {
    email  = "restorer@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:restorer@my-project.iam.gserviceaccount.com"
    name   = "projects/my-project/serviceAccounts/restorer@my-project.iam.gserviceaccount.com"
  }
}

override_resource {
  target = google_service_account.account["keeper"]
  values = {
    email  = "keeper@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:keeper@my-project.iam.gserviceaccount.com"
    name   = "projects/my-project/serviceAccounts/keeper@my-project.iam.gserviceaccount.com"
  }
}

override_resource {
  target = google_service_account.account["dispatcher"]
  values = {
    email  = "dispatcher@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:dispatcher@my-project.iam.gserviceaccount.com"
    name   = "projects/my-project/serviceAccounts/dispatcher@my-project.iam.gserviceaccount.com"
  }
}

override_resource {
  target = google_service_account.account["scheduler"]
  values = {
    email  = "scheduler@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:scheduler@my-project.iam.gserviceaccount.com"
    name   = "projects/my-project/serviceAccounts/scheduler@my-project.iam.gserviceaccount.com"
  }
}

override_resource {
  target = google_service_account.account["push"]
  values = {
    email  = "push@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:push@my-project.iam.gserviceaccount.com"
    name   = "projects/my-project/serviceAccounts/push@my-project.iam.gserviceaccount.com"
  }
}
