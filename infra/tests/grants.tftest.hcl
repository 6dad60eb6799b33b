# Grants. check_plans.py goes through those of every plan, with all permissions; here is the part that matters most.

mock_provider "google" {
  source          = "./tests/mocks"
  override_during = plan
}

variables {
  project     = "my-project"
  region      = "europe-west1"
  name        = "shop"
  image       = "europe-west1-docker.pkg.dev/my-project/images/lastgood:1"
  data        = { bucket = "shop-data" }
  dispatch    = true
  keeper      = true
  restore_job = true
}

run "grants" {
  command = plan

  # An account, a name below the prefix, and whether the account may create it.
  assert {
    condition = alltrue([
      for row in [
        ["writer", "packs/x.tar.zst", true],
        ["writer", "index/x.jsonl.zst", true],
        ["writer", "snapshots/x.json", true],
        ["writer", "checkpoints/x.json", true],
        ["writer", "claims/x/1.json", true],
        ["writer", "runs/x.json", true],
        ["writer", "epochs/1.json", true],
        ["writer", "incidents/x.json", true],
        ["writer", "doubts/x.json", true],
        ["writer", "pins/x.json", true],
        ["writer", "holds/x.json", false],
        ["writer", "unpins/x.json", false],
        ["writer", "receipts/x.json", false],
        ["writer", "vault.json", false],
        ["writer", "README.md", false],
        ["writer", "packs", false],
        ["restorer", "runs/x.json", true],
        ["restorer", "claims/x/1.json", true],
        ["restorer", "snapshots/x.json", false],
        ["restorer", "vault.json", false],
        ["keeper", "pins/x.json", true],
        ["keeper", "holds/x.json", true],
        ["keeper", "unpins/x.json", true],
        ["keeper", "runs/x.json", true],
        ["keeper", "packs/x.tar.zst", false],
        ["keeper", "vault.json", false],
        ["dispatcher", "claims/x/1.json", true],
        ["dispatcher", "runs/x.json", true],
        ["dispatcher", "snapshots/x.json", false],
      ] :
      anytrue([
        for term in regexall("startsWith\\(\"([^\"]*)\"\\)", google_storage_bucket_iam_member.create[row[0]].condition[0].expression) :
        startswith("projects/_/buckets/my-project-shop-vault/objects/lastgood/${row[1]}", term[0])
      ]) == row[2]
    ])
    error_message = "An account may create what it must not, or not what it has to."
  }

  assert {
    condition     = alltrue([for grant in google_storage_bucket_iam_member.create : grant.role == "roles/storage.objectCreator"])
    error_message = "An account may do more than create."
  }

  # A listing is asked of the bucket, and vault.json has no condition that it could fulfil.
  assert {
    condition = alltrue([
      for grant in google_storage_bucket_iam_member.read : grant.role == "roles/storage.objectViewer" && length(grant.condition) == 0
    ])
    error_message = "An account cannot list the vault."
  }

  assert {
    condition = alltrue([
      google_project_iam_custom_role.release[0].permissions == toset(["storage.objects.update"]),
      google_storage_bucket_iam_member.release[0].member == google_service_account.account["keeper"].member,
      !strcontains(google_storage_bucket_iam_member.release[0].condition[0].expression, "vault.json"),
      !strcontains(google_storage_bucket_iam_member.release[0].condition[0].expression, "objects/lastgood/\")"),
    ])
    error_message = "Somebody else than the keeper may release, or the keeper may release everything."
  }

  assert {
    condition = { for account, grant in google_storage_bucket_iam_member.data : account => grant.role } == {
      dispatcher = "roles/storage.objectViewer"
      restorer   = "roles/storage.objectUser"
      writer     = "roles/storage.objectViewer"
    }
    error_message = "An account may do more with the data than it has to."
  }

  # The terms are all that a condition has, with `||` between them.
  assert {
    condition = alltrue([
      for grant in concat(values(google_storage_bucket_iam_member.create), google_storage_bucket_iam_member.release) :
      replace(grant.condition[0].expression, "/resource\\.name\\.startsWith\\(\"[^\"]*\"\\)( \\|\\| )?/", "") == ""
    ])
    error_message = "A condition has something else in it than names."
  }

  # IAM takes no more operators in a condition.
  assert {
    condition = alltrue([
      for grant in concat(values(google_storage_bucket_iam_member.create), google_storage_bucket_iam_member.release) :
      length(split(" || ", grant.condition[0].expression)) <= 13
    ])
    error_message = "A condition has more than 12 operators."
  }

  assert {
    condition     = alltrue([for grant in google_storage_bucket_iam_binding.owners : grant.members == toset(["projectOwner:my-project"])])
    error_message = "The project's editors or viewers keep the bucket."
  }
}

# By default nothing can release an object.
run "without_a_keeper" {
  command = plan

  variables {
    keeper = false
  }

  assert {
    condition = alltrue([
      !contains(keys(google_service_account.account), "keeper"),
      !contains(keys(google_storage_bucket_iam_member.create), "keeper"),
      !contains(keys(google_storage_bucket_iam_member.read), "keeper"),
      length(google_project_iam_custom_role.release) == 0,
      length(google_storage_bucket_iam_member.release) == 0,
    ])
    error_message = "There is something of the keeper."
  }
}

run "without_a_restore_job" {
  command = plan

  variables {
    dispatch    = false
    restore_job = false
  }

  assert {
    condition = alltrue([
      keys(google_storage_bucket_iam_member.data) == ["writer"],
      keys(google_pubsub_topic_iam_member.results) == ["writer"],
      keys(google_service_account.account) == ["keeper", "push", "restorer", "scheduler", "writer"],
      length(google_cloud_run_v2_job_iam_member.dispatcher) == 0,
      length(google_project_iam_member.event_receiver) == 0,
      length(google_project_iam_member.storage_events) == 0,
    ])
    error_message = "Something is granted that nothing needs."
  }
}
