#!/usr/bin/env python3
"""Checks in the module's files what no plan shows: what Terraform must not destroy, in which order, and what it knows when it plans.

    tests/check_source.py

Then it spoils the files itself, a line at a time, and fails if it does not notice.
"""

import pathlib
import re
import sys

sys.dont_write_bytecode = True

from iam import GRANTING

INFRA = pathlib.Path(__file__).resolve().parent.parent
DEPLOY = INFRA.parent / "docs" / "deploy.md"

# The members of grants that are no service agents of Google's: the module's own accounts, and whom a variable names.
OWN = re.compile(r"google_service_account\.account\[[^]]+\]\.member|each\.key")
LIFECYCLE = re.compile(r"^  lifecycle {\n(?:    .*\n|\n)*?    (prevent_destroy|create_before_destroy) = true\n", re.M)


def blocks(text):
    """Yields the kind, type, name and body of each resource and data source of a formatted file."""
    yield from re.findall(r'^(resource|data) "(\w+)" "(\w+)" {\n(.*?)^}$', text, re.M | re.S)


def argument(body, name):
    """The expression of an argument of a block itself; `None` if the block does not have it."""
    found = re.search(rf"^  {name} += (.*)$", body, re.M)
    return found and found[1]


def outlasts(type_, body):
    """Says why a resource has to outlast the module; `None` if it may go with it."""
    if type_ == "google_storage_bucket":
        return "it has the backups"
    if not type_.endswith("_iam_member") or OWN.fullmatch(argument(body, "member") or ""):
        return None
    # Others may need what an agent of the project is granted on something that the module did not make.
    made_here = re.match(r"google_\w+\.\w+", argument(body, GRANTING[type_]) or "")
    return None if made_here else "it grants something to a service agent on what the module did not make"


def faults(files, deploy):
    """Says what is wrong with files of Terraform, by name, and with the section of docs/deploy.md on taking it down."""
    for file, text in files.items():
        for kind, type_, name, body in blocks(text):
            if kind == "data":
                if re.search(r"\bdepends_on\b", body):
                    yield f"{file}: data.{type_}.{name} has depends_on: a plan that changes one of these does not know what it tells"
                continue
            lifecycle = LIFECYCLE.search(body)
            why, protected = outlasts(type_, body), lifecycle and lifecycle[1] == "prevent_destroy"
            if why and not protected:
                yield f"{file}: {type_}.{name} has no prevent_destroy: {why}"
            if protected and f"terraform state rm module.vault.{type_}.{name}" not in deploy:
                yield f"docs/deploy.md does not say how Terraform lets go of {type_}.{name}, which it refuses to destroy"
            if type_ == "google_monitoring_notification_channel" and not (lifecycle and lifecycle[1] == "create_before_destroy"):
                yield f"{file}: {type_}.{name} has no create_before_destroy: it would be deleted while alerts still name it"


def spoiled(files):
    """Yields what was done to copies of the files, and the copies: each has to be found at fault."""
    for file, text in files.items():
        for found in re.finditer(r"^ +(prevent_destroy|create_before_destroy) = true\n", text, re.M):
            line = text[: found.start()].count("\n") + 1
            for what, line_instead in [("is gone", ""), ("is false", f"    {found[1]} = false\n")]:
                yield f"{file}:{line}: {found[1]} {what}", files | {file: text[: found.start()] + line_instead + text[found.end() :]}
        for found in re.finditer(r'^data "\w+" "\w+" {\n', text, re.M):
            line = text[: found.start()].count("\n") + 1
            added = "  depends_on = [google_project_service.needed]\n"
            yield f"{file}:{line}: depends_on is added", files | {file: text[: found.end()] + added + text[found.end() :]}


def main():
    files = {str(file.relative_to(INFRA)): file.read_text() for file in sorted(INFRA.glob("**/*.tf"))}
    deploy = DEPLOY.read_text().partition("\n## 9. ")[2].partition("\n## ")[0]
    failed = list(faults(files, deploy))
    mutants = 0
    if not failed:
        for text, other in spoiled(files):
            mutants += 1
            if not list(faults(other, deploy)):
                failed.append(f"not noticed: {text}")
        if list(faults(files, "")) == []:
            failed.append("not noticed: docs/deploy.md says nothing of what Terraform refuses to destroy")
    for text in failed:
        print(text, file=sys.stderr)
    print(f"{len(files)} files, {mutants} spoiled ones noticed" if not failed else f"{len(failed)} faults")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
