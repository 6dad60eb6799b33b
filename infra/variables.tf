# Where it runs

variable "project" {
  description = "The id of the Google Cloud project."
  type        = string

  validation {
    condition     = can(regex("^[a-z][-a-z0-9]{4,28}[a-z0-9]$", var.project))
    error_message = "A project id has 6 to 30 characters: lower-case letters, digits and dashes, with a letter first."
  }
}

variable "region" {
  description = "The region of jobs, service and schedules, and of the bucket, unless `location` says otherwise."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "A region looks like europe-west1."
  }
}

variable "name" {
  description = <<-EOT
    The vault's short name, with which the names of all resources begin. Two instances of this module in one project need two
    names. Another name makes all but the bucket again, and dead letters are lost with their topic: pull them first,
    docs/operate.md#dead_letters. Without `bucket` the plan refuses it, as the bucket has the name, too.
  EOT
  type        = string
  default     = "lastgood"

  validation {
    # An account's id has at most 30 characters, and the longest of them ends in -dispatcher.
    condition     = can(regex("^[a-z]([-a-z0-9]{0,17}[a-z0-9])?$", var.name))
    error_message = "The name has at most 19 characters: lower-case letters, digits and dashes, with a letter first."
  }
}

variable "image" {
  description = "The container image, whose entrypoint is `lastgood`."
  type        = string

  validation {
    condition     = can(regex("^\\S+$", var.image))
    error_message = "An image looks like europe-west1-docker.pkg.dev/PROJECT/REPOSITORY/lastgood:TAG."
  }
}

variable "labels" {
  description = "Labels of all resources that take some."
  type        = map(string)
  default     = {}
}

# The vault

variable "bucket" {
  description = "The name of the vault's bucket, which is made. By default the project and the name: `PROJECT-NAME-vault`."
  type        = string
  default     = null

  validation {
    condition     = var.bucket == null || can(regex("^[a-z0-9][-a-z0-9_]{1,61}[a-z0-9]$", var.bucket))
    error_message = "A bucket's name has 3 to 63 characters: lower-case letters, digits, dashes and underscores. Dots are not taken here."
  }
}

variable "prefix" {
  description = <<-EOT
    The vault's place in the bucket: the vault is `gs://BUCKET/PREFIX`. Never change it for a vault in use: accounts and lifecycle
    rules would leave the old place for the new one, where there is no vault. Make a new instance instead:
    docs/operate.md#move-a-vault.
  EOT
  type        = string
  default     = "lastgood"

  validation {
    # Not empty: each lifecycle rule and each grant is limited to what lies below it.
    condition     = can(regex("^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$", var.prefix)) && length(var.prefix) <= 100
    error_message = "The prefix has 1 to 100 characters: letters, digits, dots, dashes and underscores, in parts with / between them."
  }
  validation {
    # The bucket's rules delete by age what lies in these folders of a vault. If a vault in a/claims were changed to the prefix a, all of
    # the old one would be among the claims of the new one.
    condition     = length(setintersection(split("/", var.prefix), ["claims", "runs", "checkpoints"])) == 0
    error_message = "No part of the prefix is claims, runs or checkpoints: the bucket's rules delete by age what lies in such a folder."
  }
}

variable "location" {
  description = "The bucket's location: a region, a dual-region or a multi-region. By default the region."
  type        = string
  default     = null
}

variable "kms_key" {
  description = <<-EOT
    A Cloud KMS key that encrypts the bucket's objects: `projects/P/locations/L/keyRings/R/cryptoKeys/K`. It has to be in the
    bucket's location. Whoever destroys the key destroys the backups, and the editors of the key's project may: make it in another
    project. How to change it: docs/operate.md#credentials.
  EOT
  type        = string
  default     = null

  validation {
    condition     = var.kms_key == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key))
    error_message = "A key looks like projects/P/locations/L/keyRings/R/cryptoKeys/K."
  }
}

variable "readers" {
  description = <<-EOT
    Members that may list the vault and restore from it, such as `["group:ops@example.com"]`. They read all that was ever backed up.
    The project's owners may without it, its editors and viewers may not.
  EOT
  type        = set(string)
  default     = []

  validation {
    condition = alltrue([
      for member in var.readers : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):\\S+$", member))
    ])
    error_message = "A member looks like group:ops@example.com. Everybody is not taken."
  }
}

variable "keeper" {
  description = <<-EOT
    Makes the account that may release objects of the vault for deletion, and its grants. Nothing runs as it yet.
  EOT
  type        = bool
  default     = false
}

variable "storage_classes" {
  description = <<-EOT
    Moves packs to colder storage classes: the class, and the age in days from which on. None by default, as it often costs more.
    An object that is deleted before it was 30 days in NEARLINE, 90 in COLDLINE or 365 in ARCHIVE is billed for that time all the
    same, and each byte that is read from there is billed: about 0.01, 0.02 and 0.05 dollars per GB. A GB in the region costs
    about 0.020 dollars a month in STANDARD and 0.010 in NEARLINE: what is read once a month saves nothing. Backups read the
    index, which never moves; restores and `verify --read-data` read packs.
  EOT
  type        = list(object({ class = string, age_days = number }))
  default     = []

  validation {
    condition     = alltrue([for rule in var.storage_classes : contains(["NEARLINE", "COLDLINE", "ARCHIVE"], rule.class)])
    error_message = "The class is NEARLINE, COLDLINE or ARCHIVE."
  }
  validation {
    condition     = alltrue([for rule in var.storage_classes : rule.age_days >= 1 && floor(rule.age_days) == rule.age_days])
    error_message = "The age is a whole number of days, and at least 1."
  }
}

# The data

variable "data" {
  description = <<-EOT
    The data: a bucket or an NFS share that is mounted at /app/data. Either `bucket`, by Cloud Storage FUSE, with `mount_options` such as `["only-dir=app"]`; or `nfs`,
    with `network` and `subnetwork` from which the server is reached. Without it nothing is mounted: the image has to bring the data.
  EOT
  type = object({
    bucket        = optional(string)
    mount_options = optional(list(string), [])
    nfs           = optional(object({ server = string, path = string }))
    network       = optional(string)
    subnetwork    = optional(string)
  })
  default = null

  validation {
    condition     = var.data == null || (try(var.data.bucket, null) == null) != (try(var.data.nfs, null) == null)
    error_message = "The data is on a bucket or on an NFS share: set one of bucket and nfs."
  }
  validation {
    condition = (
      try(var.data.nfs, null) == null || try(var.data.network, null) != null ||
      try(var.data.subnetwork, null) != null
    )
    error_message = "An NFS share is reached through a VPC: set network or subnetwork."
  }
  validation {
    condition     = try(var.data.bucket, null) != coalesce(var.bucket, "${var.project}-${var.name}-vault")
    error_message = "The data and the vault are in different buckets: lifecycle rules and grants of the vault are not meant for data."
  }
}

locals {
  # Variables that the module sets, or that must stay as they are: alerts and metrics read the log, and as text, or without its notes, it
  # would tell them nothing.
  reserved = [
    "LASTGOOD_VAULT", "LASTGOOD_SERVICE", "LASTGOOD_RESULTS_TOPIC", "LASTGOOD_CLAIM", "LASTGOOD_LOG_FORMAT", "GOOGLE_CLOUD_PROJECT",
    "RUST_LOG", "PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION",
  ]
  # The last four and these are Cloud Run's own: https://docs.cloud.google.com/run/docs/container-contract
  reserved_start = "CLOUD_RUN_"
  variable_name  = "^[A-Za-z_][A-Za-z0-9_]*$"
}

variable "environment" {
  description = "Environment variables of all containers, such as `LASTGOOD_WEBHOOK_ON`."
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([
      for name in keys(var.environment) : !contains(local.reserved, name) && !startswith(name, local.reserved_start)
    ])
    error_message = "Not for the environment: ${join(", ", local.reserved)}, nor a name that begins with ${local.reserved_start}."
  }
  validation {
    condition     = alltrue([for name in keys(var.environment) : can(regex(local.variable_name, name))])
    error_message = "A variable's name has letters, digits and underscores, and no digit first."
  }
}

variable "secrets" {
  description = <<-EOT
    Environment variables whose values are secrets of Secret Manager. For each the short name of a secret in the project, whose
    newest version it gets: `{ LASTGOOD_WEBHOOK = "chat-webhook" }`.
  EOT
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for secret in values(var.secrets) : can(regex("^[A-Za-z0-9_-]{1,255}$", secret))])
    error_message = "A secret is named by its short name; it is in the same project."
  }
  validation {
    condition     = length(setintersection(keys(var.secrets), keys(var.environment))) == 0
    error_message = "A variable is set in environment or in secrets, not in both."
  }
  validation {
    condition = alltrue([
      for name in keys(var.secrets) : !contains(local.reserved, name) && !startswith(name, local.reserved_start)
    ])
    error_message = "Not for secrets: ${join(", ", local.reserved)}, nor a name that begins with ${local.reserved_start}."
  }
  validation {
    condition     = alltrue([for name in keys(var.secrets) : can(regex(local.variable_name, name))])
    error_message = "A variable's name has letters, digits and underscores, and no digit first."
  }
}

# Jobs and their schedule

variable "backup_schedule" {
  description = "When a backup is taken, as in cron. `null`: by no schedule."
  type        = string
  default     = "0 */6 * * *"

  validation {
    condition     = var.backup_schedule == null || can(regex("^\\S+( \\S+){4}$", var.backup_schedule))
    error_message = "A schedule has five fields: minute, hour, day of the month, month, day of the week."
  }
}

variable "verify_schedule" {
  description = "When the vault is verified, as in cron. `null`: by no schedule."
  type        = string
  default     = "30 3 * * 0"

  validation {
    condition     = var.verify_schedule == null || can(regex("^\\S+( \\S+){4}$", var.verify_schedule))
    error_message = "A schedule has five fields: minute, hour, day of the month, month, day of the week."
  }
}

variable "time_zone" {
  description = "The time zone of the schedules, such as `Europe/Paris`."
  type        = string
  default     = "Etc/UTC"

  validation {
    condition     = can(regex("^[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$", var.time_zone))
    error_message = "A time zone looks like Europe/Paris or Etc/UTC."
  }
}

variable "verify_read_percent" {
  description = "How much of the data each verification reads and compares, in percent. 0 looks only whether everything is there."
  type        = number
  default     = 10

  validation {
    condition     = contains(range(101), var.verify_read_percent)
    error_message = "A whole number from 0 to 100."
  }
}

variable "restore_job" {
  description = <<-EOT
    Makes a job that restores into the data's place. Nothing starts it but a person. With data on a bucket, the restorer may then
    write and delete there.
  EOT
  type        = bool
  default     = false

  validation {
    condition     = !var.restore_job || var.data != null
    error_message = "There is no place to restore into: set data."
  }
}

locals {
  # In mebibytes, by the number of processors.
  memory_limits = {
    1 = { least = 512, most = 4 * 1024 }
    2 = { least = 512, most = 8 * 1024 }
    4 = { least = 2 * 1024, most = 16 * 1024 }
    6 = { least = 4 * 1024, most = 24 * 1024 }
    8 = { least = 4 * 1024, most = 32 * 1024 }
  }
}

variable "cpu" {
  description = "Processors of a job's container, and of the service's."
  type        = number
  default     = 1

  validation {
    condition     = contains([1, 2, 4, 6, 8], var.cpu)
    error_message = "1, 2, 4, 6 or 8."
  }
}

variable "memory" {
  description = <<-EOT
    Memory of a job's container, and of the service's. Cloud Storage FUSE and temporary files take theirs from it. How much it may be
    depends on `cpu`.
  EOT
  type        = string
  default     = "1Gi"

  validation {
    condition     = can(regex("^[1-9][0-9]*(Mi|Gi)$", var.memory))
    error_message = "An amount such as 512Mi or 2Gi."
  }
  validation {
    # https://docs.cloud.google.com/run/docs/configuring/services/cpu; and the second generation, which runs all, takes no less than 512Mi:
    # https://docs.cloud.google.com/run/docs/configuring/services/memory-limits
    condition = try(alltrue([
      for mebibytes in [tonumber(regex("^[0-9]+", var.memory)) * (endswith(var.memory, "Gi") ? 1024 : 1)] :
      mebibytes >= local.memory_limits[var.cpu].least && mebibytes <= local.memory_limits[var.cpu].most
    ]), true) # Where it fails, cpu or memory itself is refused.
    error_message = "Cloud Run takes 512Mi to 4Gi with 1 CPU, 512Mi to 8Gi with 2, 2Gi to 16Gi with 4, 4Gi to 24Gi with 6, and 4Gi to 32Gi with 8."
  }
}

variable "timeout_seconds" {
  description = "How long an attempt of a job may take."
  type        = number
  default     = 3600

  validation {
    condition     = var.timeout_seconds >= 300 && var.timeout_seconds <= 604800 && floor(var.timeout_seconds) == var.timeout_seconds
    error_message = "A whole number of seconds from 300 to 604800, seven days."
  }
}

# Events

variable "events" {
  description = <<-EOT
    Makes the topic for critical events and the service that takes a snapshot at each. Changed to false, or with another `name`, an
    apply deletes the topics with all dead letters that nobody has read: pull them first, docs/operate.md#dead_letters.
  EOT
  type        = bool
  default     = true
}

variable "publishers" {
  description = "Members that may publish critical events: `[\"serviceAccount:app@PROJECT.iam.gserviceaccount.com\"]`."
  type        = set(string)
  default     = []

  validation {
    condition = alltrue([
      for member in var.publishers : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):\\S+$", member))
    ])
    error_message = "A member looks like serviceAccount:NAME@PROJECT.iam.gserviceaccount.com. Everybody is not taken."
  }
}

variable "dispatch" {
  description = <<-EOT
    Has the service start a job for each run. Set it where a backup takes longer than ten minutes: Pub/Sub waits no longer for an
    answer.
  EOT
  type        = bool
  default     = false

  validation {
    condition     = !var.dispatch || var.events
    error_message = "Only the service dispatches: set events."
  }
  validation {
    # A message is delivered 100 times at most, with 600 s between, and has to outlast a run that goes on.
    condition     = !var.dispatch || var.timeout_seconds <= 50400
    error_message = "With dispatch, timeout_seconds is at most 50400: Pub/Sub gives up a message before a longer run is over."
  }
}

variable "eventarc" {
  description = <<-EOT
    An Eventarc trigger that asks the service for backups. `filters` choose the events, such as
    `{ type = "google.cloud.storage.object.v1.finalized", bucket = "my-uploads" }`; `location`, by default the region, has to be
    that of what they come from; `path` is the service's. Events of the vault's own bucket are refused.
  EOT
  type = object({
    filters  = map(string)
    location = optional(string)
    path     = optional(string, "/events/backup")
  })
  default = null

  validation {
    condition     = var.eventarc == null || var.events
    error_message = "Events of Eventarc go to the service: set events."
  }
  validation {
    condition     = var.eventarc == null || can(var.eventarc.filters["type"])
    error_message = "The filters have a type."
  }
  validation {
    condition     = var.eventarc == null || contains(["/events/backup", "/events/critical", "/events/verify"], try(var.eventarc.path, ""))
    error_message = "The path is /events/backup, /events/critical or /events/verify."
  }
  validation {
    # By its name, as events of objects have it, or within a resource's name, as those of audit logs do.
    condition = alltrue([
      for value in values(try(var.eventarc.filters, {})) :
      !contains(split("/", value), coalesce(var.bucket, "${var.project}-${var.name}-vault"))
    ])
    error_message = "Events of the vault's own bucket are not taken: each backup writes there, and would ask for the next one without end."
  }
}

# Alerts

variable "alert_emails" {
  description = "Addresses to which alerts are sent. Without one, and without `alert_topic`, nobody is told."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.alert_emails : can(regex("^[^@\\s]+@[^@\\s]+$", address))])
    error_message = "An address looks like ops@example.com."
  }
}

variable "alert_topic" {
  description = <<-EOT
    A topic, `projects/P/topics/T`, to which alerts are published. It is not made here. How to change it:
    docs/operate.md#credentials.
  EOT
  type        = string
  default     = null

  validation {
    condition     = var.alert_topic == null || can(regex("^projects/[^/]+/topics/[^/]+$", var.alert_topic))
    error_message = "A topic looks like projects/P/topics/T."
  }
}

variable "max_age" {
  description = <<-EOT
    How old the newest good snapshot may be before that is an alert. With a backup every six hours, `13h` tells of the second one
    that is missing.
  EOT
  type        = string
  default     = "26h"

  validation {
    condition     = can(regex("^([1-9][0-9]*h)?([1-9][0-9]*m)?$", var.max_age)) && var.max_age != ""
    error_message = "A duration such as 26h or 1h30m."
  }
  validation {
    # The program takes no longer one.
    condition = try(sum([
      for amount in regexall("[0-9]+[hm]", var.max_age) : tonumber(trimsuffix(trimsuffix(amount, "h"), "m")) * (endswith(amount, "h") ? 60 : 1)
    ]) <= 876000 * 60, true) # Where it fails, it is no duration.
    error_message = "At most 876000h, a hundred years."
  }
}

variable "data_access_logs" {
  description = <<-EOT
    Logs who reads and writes objects. Google has this switch for all buckets of a project together, and bills the logs by size. Set
    it in one instance of this module per project. It replaces what was set for Cloud Storage before.
  EOT
  type        = bool
  default     = false
}
