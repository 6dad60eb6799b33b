"""The permissions of Google's roles, the types of resources that grant one, and the meaning of a condition in this module's grants."""

import re

# The permissions of the predefined roles that the module may use. A role that is not here fails the check: look it up first.
# Sources, read in November 2026:
#   https://docs.cloud.google.com/storage/docs/access-control/iam-roles
#   https://docs.cloud.google.com/iam/docs/roles-permissions/run (and pubsub, iam, secretmanager, cloudkms, eventarc)
ROLES = {
    "roles/storage.objectViewer": {
        "resourcemanager.projects.get",
        "resourcemanager.projects.list",
        "storage.folders.get",
        "storage.folders.list",
        "storage.managedFolders.get",
        "storage.managedFolders.list",
        "storage.objects.get",
        "storage.objects.list",
    },
    "roles/storage.objectCreator": {
        "orgpolicy.policy.get",
        "resourcemanager.projects.get",
        "resourcemanager.projects.list",
        "storage.folders.create",
        "storage.managedFolders.create",
        "storage.multipartUploads.abort",
        "storage.multipartUploads.create",
        "storage.multipartUploads.listParts",
        "storage.objects.create",
    },
    # For the data, never for the vault.
    "roles/storage.objectUser": {
        "orgpolicy.policy.get",
        "resourcemanager.projects.get",
        "resourcemanager.projects.list",
        "storage.folders.create",
        "storage.folders.delete",
        "storage.folders.get",
        "storage.folders.list",
        "storage.folders.rename",
        "storage.managedFolders.create",
        "storage.managedFolders.delete",
        "storage.managedFolders.get",
        "storage.managedFolders.list",
        "storage.multipartUploads.abort",
        "storage.multipartUploads.create",
        "storage.multipartUploads.list",
        "storage.multipartUploads.listParts",
        "storage.objects.create",
        "storage.objects.delete",
        "storage.objects.get",
        "storage.objects.list",
        "storage.objects.move",
        "storage.objects.restore",
        "storage.objects.update",
    },
    "roles/run.invoker": {"run.jobs.run", "run.routes.invoke"},
    "roles/run.jobsExecutorWithOverrides": {"run.executions.cancel", "run.jobs.run", "run.jobs.runWithOverrides"},
    "roles/pubsub.publisher": {"pubsub.topics.publish"},
    "roles/pubsub.subscriber": {
        "pubsub.snapshots.seek",
        "pubsub.subscriptions.consume",
        "pubsub.topics.attachSubscription",
    },
    "roles/iam.serviceAccountOpenIdTokenCreator": {"iam.serviceAccounts.getOpenIdToken"},
    "roles/secretmanager.secretAccessor": {
        "resourcemanager.projects.get",
        "resourcemanager.projects.list",
        "secretmanager.versions.access",
    },
    "roles/cloudkms.cryptoKeyEncrypterDecrypter": {
        "cloudkms.cryptoKeyVersions.useToDecrypt",
        "cloudkms.cryptoKeyVersions.useToEncrypt",
        "cloudkms.locations.get",
        "cloudkms.locations.list",
        "resourcemanager.projects.get",
    },
    "roles/eventarc.eventReceiver": {"eventarc.events.receiveAuditLogWritten", "eventarc.events.receiveEvent"},
}

# The types that grant a role to one member and leave other grants alone, and the argument that names the resource.
GRANTING = {
    "google_cloud_run_v2_job_iam_member": "name",
    "google_cloud_run_v2_service_iam_member": "name",
    "google_kms_crypto_key_iam_member": "crypto_key_id",
    "google_project_iam_member": "project",
    "google_pubsub_subscription_iam_member": "subscription",
    "google_pubsub_topic_iam_member": "topic",
    "google_secret_manager_secret_iam_member": "secret_id",
    "google_service_account_iam_member": "service_account_id",
    "google_storage_bucket_iam_member": "bucket",
}

# The roles that may be granted on the project, as nothing below it takes them: of Eventarc, which makes its own topics.
ON_PROJECT = {"roles/eventarc.eventReceiver", "roles/pubsub.publisher"}

# IAM's own limit: https://docs.cloud.google.com/iam/quotas
MOST_OPERATORS = 12

TERM = re.compile(r'resource\.name\.startsWith\("([^"\\]*)"\)')


def condition_holds(expression, resource_name):
    """Evaluates a condition for a resource.

    Knows `resource.name.startsWith("…")` and `||`, which is all that the module uses; anything else is an error.
    """
    terms = expression.split(" || ")
    if len(terms) - 1 > MOST_OPERATORS:
        raise ValueError(f"{len(terms) - 1} operators, and IAM takes {MOST_OPERATORS}: {expression}")
    prefixes = []
    for term in terms:
        known = TERM.fullmatch(term)
        if not known:
            raise ValueError(f"this check does not understand {term!r}")
        prefixes.append(known[1])
    return any(resource_name.startswith(prefix) for prefix in prefixes)


def object_name(bucket, name):
    """The name of an object as conditions see it; of the bucket itself where `name` is None, as for a listing.

    https://docs.cloud.google.com/iam/docs/conditions-resource-attributes#resource-name
    """
    return f"projects/_/buckets/{bucket}" + ("" if name is None else f"/objects/{name}")
