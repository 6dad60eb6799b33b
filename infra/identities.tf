# The accounts, and what each may do in the vault. A stolen account destroys no backup: none may delete, none may grant, and only
# the keeper may change what is there, by which an object can be released for deletion. It is made only where a variable asks for it:
# nothing runs as it yet, and an editor of the project may run something as any account.
#
#   account      reads  creates below these folders of the vault                changes   besides
#   writer       yes    all that a backup writes, not holds, unpins, receipts   nothing   reads the data
#   restorer     yes    claims, runs                                            nothing   writes the data, where there is a restore job
#   keeper       yes    holds, pins, runs, unpins                               releases  nothing
#   dispatcher   yes    claims, runs                                            nothing   starts the job work with arguments of its choice,
#                                                                                         so has what the writer has; reads the data
#   scheduler    no     nothing                                                 nothing   starts the scheduled jobs
#   push         no     nothing                                                 nothing   calls the service
#
# README.md and vault.json lie above all folders, so none of them can make, replace or release a vault: a person makes it, once.

locals {
  accounts = merge(
    {
      writer    = "Takes snapshots, and verifies them."
      restorer  = "Restores, and looks how old the newest snapshot is."
      scheduler = "Starts jobs when it is time."
    },
    var.keeper ? { keeper = "Lets old snapshots go." } : {},
    var.events ? { push = "Delivers events to the service." } : {},
    var.dispatch ? { dispatcher = "Is the service, and starts a job for each event." } : {},
  )

  # The accounts as which something runs that tells of its result.
  runners = toset(concat(["writer"], var.restore_job ? ["restorer"] : [], var.dispatch ? ["dispatcher"] : []))

  # The folders in which an account may create objects.
  creates = {
    for account, folders in {
      writer     = ["checkpoints", "claims", "doubts", "epochs", "incidents", "index", "packs", "pins", "runs", "snapshots"]
      restorer   = ["claims", "runs"]
      keeper     = ["holds", "pins", "runs", "unpins"]
      dispatcher = ["claims", "runs"]
    } : account => folders if contains(keys(local.accounts), account)
  }

  # The folders whose objects the keeper may release.
  releases = ["doubts", "epochs", "holds", "incidents", "index", "packs", "pins", "receipts", "snapshots", "unpins"]

  # A condition on names below some folders of the vault. IAM takes at most 12 operators in a condition, 13 folders.
  # https://docs.cloud.google.com/iam/quotas
  below = {
    for use, folders in merge(local.creates, var.keeper ? { release = local.releases } : {}) : use => join(" || ", [
      for folder in folders : "resource.name.startsWith(\"projects/_/buckets/${local.bucket}/objects/${var.prefix}/${folder}/\")"
    ])
  }
}

resource "google_service_account" "account" {
  for_each = local.accounts

  project      = var.project
  account_id   = "${var.name}-${each.key}"
  display_name = "lastgood: ${each.key} of ${var.name}"
  description  = each.value

  depends_on = [google_project_service.needed]
}

# Google gives each new bucket to all editors and viewers of the project. Among the editors is the default account of Compute
# Engine in many projects, and so whatever app runs as it: it could delete the backups. Here they are the owners' alone. Whoever
# applies this has to be an owner of the project, or hold roles/storage.admin.
# https://docs.cloud.google.com/storage/docs/access-control/iam#convenience-values
resource "google_storage_bucket_iam_binding" "owners" {
  for_each = toset([
    "roles/storage.legacyBucketOwner",
    "roles/storage.legacyBucketReader",
    "roles/storage.legacyObjectOwner",
    "roles/storage.legacyObjectReader",
  ])

  bucket  = google_storage_bucket.vault.name
  role    = each.key
  members = ["projectOwner:${var.project}"]
}

# Get and list, without a condition: a listing is asked of the bucket and has no object's name, and vault.json is read, too. This
# is why a vault has a bucket of its own: who may list sees all names in it.
resource "google_storage_bucket_iam_member" "read" {
  for_each = local.creates

  bucket = google_storage_bucket.vault.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.account[each.key].member
}

# People who look and restore.
resource "google_storage_bucket_iam_member" "readers" {
  for_each = var.readers

  bucket = google_storage_bucket.vault.name
  role   = "roles/storage.objectViewer"
  member = each.key
}

# Create. To overwrite an object, storage.objects.delete would be needed, which the role does not have.
# https://docs.cloud.google.com/storage/docs/access-control/iam-roles
resource "google_storage_bucket_iam_member" "create" {
  for_each = local.creates

  bucket = google_storage_bucket.vault.name
  role   = "roles/storage.objectCreator"
  member = google_service_account.account[each.key].member

  condition {
    title       = "what the ${each.key} creates"
    description = "New objects in some folders of the vault, and never README.md or vault.json."
    expression  = local.below[each.key]
  }
}

# Release. Each predefined role that may update objects may delete them, too, or grant.
resource "google_project_iam_custom_role" "release" {
  count = var.keeper ? 1 : 0

  project     = var.project
  role_id     = "${replace(var.name, "-", "_")}_release"
  title       = "lastgood: release objects of ${var.name}"
  description = "Changes the metadata of objects: a lifecycle rule deletes what has a customTime."
  permissions = ["storage.objects.update"]

  depends_on = [google_project_service.needed]
}

resource "google_storage_bucket_iam_member" "release" {
  count = var.keeper ? 1 : 0

  bucket = google_storage_bucket.vault.name
  role   = google_project_iam_custom_role.release[0].name
  member = google_service_account.account["keeper"].member

  condition {
    title       = "what can be let go"
    description = "Objects in some folders of the vault, and never README.md or vault.json."
    expression  = local.below["release"]
  }
}

# The data. A backup reads it, and only a restore job writes it. An NFS share knows no accounts: there, the network decides.
locals {
  data_roles = local.data_bucket == null ? {} : merge(
    { writer = "roles/storage.objectViewer" },
    var.dispatch ? { dispatcher = "roles/storage.objectViewer" } : {},
    var.restore_job ? { restorer = "roles/storage.objectUser" } : {},
  )
}

resource "google_storage_bucket_iam_member" "data" {
  for_each = local.data_roles

  bucket = local.data_bucket
  role   = each.value
  member = google_service_account.account[each.key].member
}

# Secrets, whose values are in the environment of runs.
resource "google_secret_manager_secret_iam_member" "environment" {
  for_each = merge([
    for account in local.runners : {
      for secret in toset(values(var.secrets)) : "${account} ${secret}" => { account = account, secret = secret }
    }
  ]...)

  project   = var.project
  secret_id = each.value.secret
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.account[each.value.account].member

  depends_on = [google_project_service.needed]
}
