#!/usr/bin/env python3
"""Checks the plans of `terraform test`: what lifecycle rules delete, and who is granted what.

    terraform test -json -verbose | tests/check_plans.py [--table]

It reads every plan that the tests make, goes through every Delete rule and every grant in it, and says what is wrong. Then it
spoils the plan itself, a rule or a grant at a time, and fails if it does not notice. --table prints the grants of the fullest plan.
"""

import copy
import json
import pathlib
import re
import sys

sys.dont_write_bytecode = True

from agents import TO_AGENTS, agents, other_agents
from iam import GRANTING, ON_PROJECT, ROLES, condition_holds, object_name

HERE = pathlib.Path(__file__).resolve().parent

# Its plans are refused for a variable's value, and are not whole.
REFUSED = "tests/variables.tftest.hcl"

# The types of resources that grant nothing. One that is in neither list fails the check: think about what it allows first.
GRANTING_NOTHING = {
    "google_cloud_run_v2_job",
    "google_cloud_run_v2_service",
    "google_cloud_scheduler_job",
    "google_eventarc_trigger",
    "google_logging_metric",
    "google_monitoring_alert_policy",
    "google_monitoring_dashboard",
    "google_monitoring_notification_channel",
    "google_project_iam_audit_config",
    "google_project_service",
    "google_pubsub_subscription",
    "google_pubsub_topic",
    "google_service_account",
    "google_storage_bucket",
}
# The roles that Google gives to all editors and viewers of a project on a new bucket, and that the module leaves to owners alone.
OF_OWNERS = {f"roles/storage.legacy{role}" for role in ("BucketOwner", "BucketReader", "ObjectOwner", "ObjectReader")}
# The table of rights in the vault: by account and permission the folders below the prefix. All else is refused.
EVERYWHERE = object()
READ = {"storage.objects.get": EVERYWHERE, "storage.objects.list": EVERYWHERE}
MAY = {
    "writer": READ
    | {
        "storage.objects.create": (
            "packs index snapshots checkpoints claims runs epochs incidents doubts pins".split()
        )
    },
    "restorer": READ | {"storage.objects.create": "runs claims".split()},
    "keeper": READ
    | {
        "storage.objects.create": "runs pins holds unpins".split(),
        "storage.objects.update": "packs index snapshots epochs incidents doubts pins holds unpins receipts".split(),
    },
    "dispatcher": READ | {"storage.objects.create": "runs claims".split()},
    "scheduler": {},
    "push": {},
}
FOLDERS = "packs index snapshots checkpoints claims runs epochs incidents doubts pins holds unpins receipts".split()
PERMISSIONS = [
    "storage.objects.create",
    "storage.objects.get",
    "storage.objects.list",
    "storage.objects.update",
    "storage.objects.delete",
    "storage.objects.restore",
    "storage.objects.setIamPolicy",
    "storage.objects.setRetention",
    "storage.objects.overrideUnlockedRetention",
    "storage.buckets.get",
    "storage.buckets.update",
    "storage.buckets.delete",
    "storage.buckets.setIamPolicy",
]
# The grants beside it: the account, the role, and the type of the grant.
BESIDES = {
    ("writer", "roles/storage.objectViewer", "google_storage_bucket_iam_member"),  # the data
    ("dispatcher", "roles/storage.objectViewer", "google_storage_bucket_iam_member"),
    ("restorer", "roles/storage.objectUser", "google_storage_bucket_iam_member"),
    ("scheduler", "roles/run.invoker", "google_cloud_run_v2_job_iam_member"),
    ("push", "roles/run.invoker", "google_cloud_run_v2_service_iam_member"),
    ("push", "roles/eventarc.eventReceiver", "google_project_iam_member"),
    ("dispatcher", "roles/run.jobsExecutorWithOverrides", "google_cloud_run_v2_job_iam_member"),
    *((who, "roles/pubsub.publisher", "google_pubsub_topic_iam_member") for who in ("writer", "restorer", "dispatcher")),
    *(
        (who, "roles/secretmanager.secretAccessor", "google_secret_manager_secret_iam_member")
        for who in ("writer", "restorer", "dispatcher")
    ),
}
# Nobody gets a role with one of these, wherever it is granted, but a restore job's account for the data.
NEVER = re.compile(r"(\.delete|\.setIamPolicy|\.update|\.destroy|\.actAs|\.getAccessToken|\.signBlob|\.signJwt|serviceAccountKeys\..*)$")


class Plan:
    """A plan of one vault: the resources of the module with the bucket `vault`."""

    def __init__(self, label, module, changes):
        self.label = label
        self.module = module
        self.changes = changes
        self.bucket = next(c["change"]["after"] for c in changes if c["address"].endswith("google_storage_bucket.vault"))
        # Where the backups really go.
        backup = next(c["change"]["after"] for c in changes if c["address"].endswith('google_cloud_run_v2_job.job["backup"]'))
        environment = backup["template"][0]["template"][0]["containers"][0]["env"]
        vault = next(variable["value"] for variable in environment if variable["name"] == "LASTGOOD_VAULT")
        in_bucket = vault.startswith(f"gs://{self.bucket['name']}/")
        self.prefix = vault.removeprefix(f"gs://{self.bucket['name']}/") if in_bucket else ""

    def of_type(self, type_):
        return [c for c in self.changes if c["type"] == type_]

    def at(self, address):
        """The values of the resource with this address within the module, which has no index or is the only one."""
        addresses = (self.module + address, f"{self.module}{address}[0]")
        return next(c["change"]["after"] for c in self.changes if c["address"] in addresses)

    def local_address(self, change):
        """The address within the module, without an index."""
        return re.sub(r"\[[^]]*\]$", "", change["address"].removeprefix(self.module))


def delete_rules(plan):
    """Says what is wrong with each lifecycle rule that deletes."""
    rules = [rule for rule in plan.bucket["lifecycle_rule"] if rule["action"][0]["type"] == "Delete"]
    if len(rules) != 4:
        yield f"{len(rules)} Delete rules, not 4"
    for rule in rules:
        condition = rule["condition"][0]
        prefixes = condition["matches_prefix"] or []
        days, age = condition["days_since_custom_time"], condition["age"]
        short_lived = {f"{plan.prefix}/{folder}/" for folder in ("claims", "runs", "checkpoints")}
        below = bool(prefixes) and all(prefix.startswith(f"{plan.prefix}/") for prefix in prefixes)
        if not plan.prefix or not below:
            yield f"a Delete rule is not limited to the vault {plan.prefix!r}: {prefixes}"
        if days is not None and days >= 7:
            continue
        if age is not None and age >= 31 and prefixes and set(prefixes) <= short_lived:
            continue
        yield f"a Delete rule for {prefixes} has neither 7 days since customTime nor 31 days of claims, runs or checkpoints"


def other_rules(plan):
    """Says what is wrong with the rules that change a storage class, and with the bucket itself."""
    for rule in plan.bucket["lifecycle_rule"]:
        prefixes = rule["condition"][0]["matches_prefix"] or []
        if rule["action"][0]["type"] == "SetStorageClass" and prefixes != [f"{plan.prefix}/packs/"]:
            yield f"a storage class is changed outside of packs: {prefixes}"
    bucket = plan.bucket
    if bucket["force_destroy"] or bucket["public_access_prevention"] != "enforced" or not bucket["uniform_bucket_level_access"]:
        yield "the bucket can be destroyed with what is in it, or can be public, or has ACLs"


def owners(plan):
    """Says where somebody else than the project's owners keeps what Google gives away of a new bucket."""
    left = set()
    for change in plan.of_type("google_storage_bucket_iam_binding"):
        after = change["change"]["after"]
        if after["bucket"] != plan.bucket["name"] or after["role"] not in OF_OWNERS or after.get("condition"):
            yield f"{change['address']}: an authoritative binding that this check does not know"
        if after["members"] != [f"projectOwner:{plan.bucket['project']}"]:
            yield f"{change['address']}: {after['members']} are not the project's owners alone"
        left.add(after["role"])
    yield from (f"{role} stays with all editors or viewers of the project" for role in OF_OWNERS - left)


def grants(plan):
    """Yields each grant as (account or member, role, permissions, kind of resource, resource, condition, problem)."""
    accounts = {}
    for change in plan.of_type("google_service_account"):
        accounts[change["change"]["after"].get("member")] = change["index"]
    custom = {}
    for change in plan.of_type("google_project_iam_custom_role"):
        custom[change["change"]["after"].get("name")] = set(change["change"]["after"]["permissions"])
    for change in plan.changes:
        type_, after, problem = change["type"], change["change"]["after"], None
        if type_ in GRANTING_NOTHING | {"google_project_iam_custom_role", "google_storage_bucket_iam_binding"}:
            continue
        if type_ not in GRANTING:
            yield None, None, set(), type_, "", None, f"{change['address']}: this check does not know what a {type_} grants"
            continue
        member, role = after.get("member"), after.get("role")
        who = accounts.get(member, member)
        if member is None:
            who = "Google's service agent"
            if plan.local_address(change) not in TO_AGENTS:
                problem = f"{change['address']}: its member is not known"
        elif member in ("allUsers", "allAuthenticatedUsers") or member.startswith("project"):
            problem = f"{change['address']}: granted to {member}"
        permissions = custom.get(role) if role in custom else ROLES.get(role)
        if permissions is None:
            problem = f"{change['address']}: the role {role} is not in iam.py"
        conditions = after.get("condition") or []
        expression = conditions[0]["expression"] if conditions else None
        try:
            condition_holds(expression or 'resource.name.startsWith("")', "")
        except ValueError as why:
            problem = f"{change['address']}: {why}"
        yield who, role, permissions or set(), type_, after.get(GRANTING[type_]), expression, problem


def allowed(plan, who, permission, name, found):
    """Whether the grants allow it, for an object of the vault's bucket, or the bucket itself where `name` is None."""
    for member, _, permissions, type_, resource, expression, _ in found:
        on_vault = type_ == "google_storage_bucket_iam_member" and resource == plan.bucket["name"]
        if member != who or permission not in permissions or not (on_vault or type_ == "google_project_iam_member"):
            continue
        if expression is None or condition_holds(expression, object_name(plan.bucket["name"], name)):
            return True
    return False


def who_may(plan, in_examples=False):
    """Says which grants are too wide, and where accounts may do something else than the table says."""
    found = list(grants(plan))
    for who, role, permissions, type_, resource, expression, problem in found:
        if problem:
            if in_examples and problem.endswith("its member is not known"):
                continue
            yield problem
        if type_ == "google_project_iam_member" and role not in ON_PROJECT:
            yield f"{role} is granted to {who} on the project"
        on_vault = type_ == "google_storage_bucket_iam_member" and resource == plan.bucket["name"]
        # In an example the accounts' members are not known, so that only what is granted can be judged, and not to whom.
        if not in_examples:
            person = re.match(r"(user|group|serviceAccount|domain|principal|principalSet):", who or "")
            if on_vault and who not in MAY and not (person and role == "roles/storage.objectViewer" and expression is None):
                yield f"{who} is granted {role} on the vault"
            if not on_vault and who in MAY and (who, role, type_) not in BESIDES:
                yield f"{who} is granted {role} on {resource}"
        # Permissions by which a vault or its data could be lost are looked for one by one, whatever the role is called.
        for permission in filter(NEVER.search, permissions):
            release = on_vault and permission == "storage.objects.update" and expression is not None
            data = type_ == "google_storage_bucket_iam_member" and not on_vault
            if not (release and (in_examples or who == "keeper")) and not (data and (in_examples or who == "restorer")):
                yield f"{who} gets {permission} on {resource} by {role}"
    if in_examples or any("does not understand" in (problem or "") for *_, problem in found):
        return
    accounts = {change["index"] for change in plan.of_type("google_service_account")}
    names = {f"{plan.prefix}/{folder}/x": folder for folder in FOLDERS}
    outside = [
        None,  # the bucket itself, of which a listing is asked
        f"{plan.prefix}/vault.json",
        f"{plan.prefix}/README.md",
        f"{plan.prefix}/packs",
        f"{plan.prefix}/other/x",
        f"{plan.prefix}x/packs/x",
        f"x/{plan.prefix}/packs/x",
        "packs/x",
        "vault.json",
    ]
    for who in accounts:
        if who not in MAY:
            yield f"the account {who} is not in the table of this check"
            continue
        for permission in PERMISSIONS:
            folders = MAY[who].get(permission, ())
            for name in [*names, *outside]:
                right = folders is EVERYWHERE or names.get(name) in folders
                if allowed(plan, who, permission, name, found) != right:
                    yield f"{who} may {'not ' if right else ''}{permission} {name or 'of the bucket'}"


def faults(plan, in_examples=False):
    return [*delete_rules(plan), *other_rules(plan), *owners(plan), *agents(plan, in_examples), *who_may(plan, in_examples)]


def spoiled(plan):
    """Yields what was done to a copy of a plan, and the copy: each has to be found at fault."""

    def copied(text):
        return text, Plan(plan.label, plan.module, copy.deepcopy(plan.changes))

    for index, rule in enumerate(plan.bucket["lifecycle_rule"]):
        if rule["action"][0]["type"] != "Delete":
            continue
        bare = {key: None for key in rule["condition"][0] if key != "matches_prefix"}
        for text, changed in [
            ("is bare", bare | {"matches_prefix": rule["condition"][0]["matches_prefix"]}),
            ("has no condition at all", bare | {"matches_prefix": None}),
            ("has 0 days since customTime", bare | {"days_since_custom_time": 0, "matches_prefix": [f"{plan.prefix}/"]}),
            ("has 6 days since customTime", bare | {"days_since_custom_time": 6, "matches_prefix": [f"{plan.prefix}/"]}),
            ("is about packs by age", bare | {"age": 365, "matches_prefix": [f"{plan.prefix}/packs/"]}),
            ("is about claims of 30 days", bare | {"age": 30, "matches_prefix": [f"{plan.prefix}/claims/"]}),
            ("is about the whole bucket", bare | {"days_since_custom_time": 7, "matches_prefix": None}),
            ("is about a neighbour, too", bare | {"days_since_custom_time": 7, "matches_prefix": [f"{plan.prefix}/", "x/"]}),
        ]:
            text, other = copied(f"lifecycle rule {index} {text}")
            other.bucket["lifecycle_rule"][index]["condition"] = [changed]
            yield text, other

    # The accounts that may create have each its own folders, and none has the writer's.
    creates = {c["index"]: c["change"]["after"] for c in plan.changes if plan.local_address(c) == "google_storage_bucket_iam_member.create"}
    for who in creates.keys() - {"writer"}:
        text, other = copied(f"the {who} may create what the writer may")
        for change in other.changes:
            if plan.local_address(change) == "google_storage_bucket_iam_member.create" and change["index"] == who:
                change["change"]["after"]["condition"] = copy.deepcopy(creates["writer"]["condition"])
        yield text, other

    vault_grants = [i for i, c in enumerate(plan.changes) if c["type"] == "google_storage_bucket_iam_member"]
    for index in vault_grants:
        after = plan.changes[index]["change"]["after"]
        address = plan.changes[index]["address"]
        if after["bucket"] != plan.bucket["name"]:
            continue
        # Readers are whom somebody names: others there, or none, is no fault.
        named = plan.local_address(plan.changes[index]) == "google_storage_bucket_iam_member.readers"
        for text, key, value in [
            *([] if named else [("is gone", None, None), ("is granted to a person", "member", "user:somebody@example.com")]),
            ("is of the role storage.admin", "role", "roles/storage.admin"),
            ("is of the role editor", "role", "roles/editor"),
            ("is of the role objectUser", "role", "roles/storage.objectUser"),
            ("is granted to everybody", "member", "allUsers"),
        ]:
            text, other = copied(f"{address} {text}")
            if key is None:
                del other.changes[index]
            else:
                other.changes[index]["change"]["after"][key] = value
            yield text, other
        if after["condition"]:
            text, other = copied(f"{address} has no condition")
            other.changes[index]["change"]["after"]["condition"] = []
            yield text, other
            text, other = copied(f"the condition of {address} is wider by a folder")
            condition = other.changes[index]["change"]["after"]["condition"][0]
            wider = object_name(plan.bucket["name"], f"{plan.prefix}/receipts/" if "release" not in address else f"{plan.prefix}/runs/")
            condition["expression"] += f' || resource.name.startsWith("{wider}")'
            yield text, other

    for index, change in enumerate(plan.changes):
        if change["type"] != "google_storage_bucket_iam_binding":
            continue
        text, other = copied(f"{change['address']} is gone")
        del other.changes[index]
        yield text, other
        text, other = copied(f"{change['address']} leaves it to editors, too")
        other.changes[index]["change"]["after"]["members"].append(f"projectEditor:{plan.bucket['project']}")
        yield text, other

    for text, index, values in other_agents(plan):
        text, other = copied(text)
        other.changes[index]["change"]["after"].update(values)
        yield text, other

    for type_, role in [
        ("google_project_iam_member", "roles/storage.objectViewer"),
        ("google_project_iam_member", "roles/owner"),
        ("google_project_iam_member", "roles/pubsub.subscriber"),
        ("google_service_account_iam_member", "roles/iam.serviceAccountTokenCreator"),
        ("google_storage_bucket_iam_binding", "roles/storage.objectViewer"),
        ("google_storage_bucket_acl", None),
    ]:
        text, other = copied(f"there is a {type_} of {role}")
        after = {"role": role, "member": "serviceAccount:x@y", "members": ["serviceAccount:x@y"], "bucket": plan.bucket["name"]}
        other.changes.append({"address": f"{type_}.x", "type": type_, "change": {"after": after}})
        yield text, other


def extremes():
    """Says which variable has no value in the runs `least` and `most`, or the same in both."""
    declared = re.findall(r'^variable "(\w+)"', (HERE.parent / "variables.tf").read_text(), re.M)
    text = (HERE / "lifecycle.tftest.hcl").read_text()
    values = {}
    for run in ("least", "most"):
        block = re.search(rf'^run "{run}" {{.*?^  variables {{\n(.*?)^  }}$', text, re.M | re.S)
        values[run] = dict(re.findall(r"^    (\w+) += (.+)$", block[1], re.M)) if block else {}
    for name in declared:
        least, most = (values[run].get(name) for run in ("least", "most"))
        if least is None or most is None or least == most:
            yield f"lifecycle.tftest.hcl: {name} is not at both extremes in the runs least and most"


def vaults(message):
    """Yields the vaults that a plan of a test has."""
    label = f"{message['@testfile']}, run {message['@testrun']}"
    if message["@testfile"] == REFUSED:
        return
    changes = [c for c in message["test_plan"].get("resource_changes", []) if c["mode"] == "managed"]
    for change in changes:
        if change["type"] != "google_storage_bucket" or change["name"] != "vault":
            continue
        module = change["address"].removesuffix("google_storage_bucket.vault")
        inside = [c for c in changes if c["address"].startswith(module) and "module." not in c["address"].removeprefix(module)]
        yield Plan(label, module, inside)


def table(plan):
    rows = []
    for who, role, _, type_, resource, expression, _ in grants(plan):
        kind = type_.removeprefix("google_").removesuffix("_iam_member")
        folders = re.findall(rf"/objects/{re.escape(plan.prefix)}/(\w+)/", expression or "")
        rows.append((who, role, f"{kind} {resource}", "below " + " ".join(folders) if folders else ""))
    for row in sorted(rows):
        print("| " + " | ".join(row) + " |")


def main():
    plans, failed, summaries = [], [], []
    for line in sys.stdin:
        if not line.startswith("{"):
            print(line, end="")
            continue
        message = json.loads(line)
        if message["type"] == "diagnostic":
            found = message["diagnostic"]
            place = f"{found.get('range', {}).get('filename')}:{found.get('range', {}).get('start', {}).get('line')}"
            print(f"{found['severity']}: {message.get('@testrun', '')}: {found['summary']}: {found['detail']} ({place})")
        elif message["type"] == "test_plan":
            plans += [(plan, "examples" in plan.label) for plan in vaults(message)]
        elif message["type"] == "test_summary":
            summaries.append(message)
            print(message["@message"])
    failed += extremes()
    for plan, in_examples in plans:
        failed += [f"{plan.label}: {fault}" for fault in faults(plan, in_examples)]
    mutants = 0
    if not failed:
        for plan, in_examples in plans:
            if in_examples:
                continue
            for text, other in spoiled(plan):
                mutants += 1
                if not faults(other):
                    failed.append(f"{plan.label}: not noticed: {text}")
    if not any(not in_examples for _, in_examples in plans):
        failed.append("no plan came in: pipe `terraform test -json -verbose` into this")
    if any(summary["test_summary"]["status"] != "pass" for summary in summaries if sum(counts(summary))):
        failed.append("terraform test failed")
    if "--table" in sys.argv[1:] and plans:
        table(max((plan for plan, in_examples in plans if not in_examples), key=lambda plan: len(plan.changes)))
    for text in failed:
        print(text, file=sys.stderr)
    print(f"{len(plans)} plans, {mutants} spoiled ones noticed" if not failed else f"{len(failed)} faults")
    return 1 if failed else 0


def counts(summary):
    return [summary["test_summary"][key] for key in ("passed", "failed", "errored", "skipped")]


if __name__ == "__main__":
    sys.exit(main())
