"""What Google's own service agents are granted."""

import re

from iam import GRANTING

# Google's own service agents, whose names hold the project's number. The plans of the examples have some text in place of what Google
# would tell.
AGENT = re.compile(r"serviceAccount:service-\w+@([\w-]+)\.iam\.gserviceaccount\.com")
# All that is granted to them: by the grant's address the agent, the role, and the resource or account that the plan has for it.
TO_AGENTS = {
    "google_kms_crypto_key_iam_member.storage": (
        "gs-project-accounts",
        "roles/cloudkms.cryptoKeyEncrypterDecrypter",
        lambda plan: plan.bucket["encryption"][0]["default_kms_key_name"],
    ),
    "google_project_iam_member.storage_events": (
        "gs-project-accounts",
        "roles/pubsub.publisher",
        lambda plan: plan.bucket["project"],
    ),
    "google_pubsub_subscription_iam_member.dead": (
        "gcp-sa-pubsub",
        "roles/pubsub.subscriber",
        lambda plan: plan.at("google_pubsub_subscription.critical")["name"],
    ),
    "google_pubsub_topic_iam_member.alerts": (
        "gcp-sa-monitoring-notification",
        "roles/pubsub.publisher",
        lambda plan: plan.at("google_monitoring_notification_channel.topic")["labels"]["topic"],
    ),
    "google_pubsub_topic_iam_member.dead": (
        "gcp-sa-pubsub",
        "roles/pubsub.publisher",
        lambda plan: plan.at("google_pubsub_topic.dead")["name"],
    ),
    "google_service_account_iam_member.push_token": (
        "gcp-sa-pubsub",
        "roles/iam.serviceAccountOpenIdTokenCreator",
        lambda plan: plan.at('google_service_account.account["push"]').get("name"),
    ),
}

def agents(plan, in_examples=False):
    """Says where one of Google's service agents is granted something else than the table says."""
    for change in plan.changes:
        if change["type"] not in GRANTING:
            continue
        after, known = change["change"]["after"], TO_AGENTS.get(plan.local_address(change))
        agent = AGENT.fullmatch(after.get("member") or "")
        if not known:
            if agent:
                yield f"{change['address']}: granted to Google's agent {agent[1]}"
            continue
        right_agent, right_role, right_resource = known[0], known[1], known[2](plan)
        if not in_examples and (agent and agent[1]) != right_agent:
            yield f"{change['address']}: granted to {after.get('member')}, not to {right_agent}"
        if after["role"] != right_role:
            yield f"{change['address']}: the role is {after['role']}, not {right_role}"
        resource = after.get(GRANTING[change["type"]])
        if resource != right_resource:
            yield f"{change['address']}: granted on {resource}, not on {right_resource}"


def agent_member(agent):
    return f"serviceAccount:service-123456789012@{agent}.iam.gserviceaccount.com"


def other_agents(plan):
    """Yields what may be wrong with a grant to an agent: a text, the index of the change, and the values that make it wrong."""
    accounts = [c for c in plan.changes if c["type"] == "google_service_account"]
    for index, change in enumerate(plan.changes):
        address = plan.local_address(change)
        if address not in TO_AGENTS:
            continue
        key = GRANTING[change["type"]]
        for text, values in [
            *((f"is of the role {role}", {"role": role}) for role in sorted({known[1] for known in TO_AGENTS.values()})),
            ("is on something else", {key: "x"}),
            *((f"is on the account {c['index']}", {key: c["change"]["after"]["name"]}) for c in accounts),
            *((f"is granted to {agent}", {"member": agent_member(agent)}) for agent in sorted({known[0] for known in TO_AGENTS.values()})),
            *((f"is granted to {c['index']}", {"member": c["change"]["after"]["member"]}) for c in accounts),
            ("is granted to a person", {"member": "user:somebody@example.com"}),
        ]:
            if any(change["change"]["after"].get(name) != value for name, value in values.items()):
                yield f"{address} {text}", index, values
    # An agent takes the place of somebody else.
    for index, change in enumerate(plan.changes):
        if change["type"] in GRANTING and plan.local_address(change) not in TO_AGENTS:
            yield f"{change['address']} is granted to an agent", index, {"member": agent_member("gcp-sa-pubsub")}
