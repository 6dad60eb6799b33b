#!/usr/bin/env python3
"""Checks that README.md tells the module's variables and outputs as they are, and that documentation names what there is.

    tests/check_readme.py            says what differs
    tests/check_readme.py --write    writes the tables anew

In the repository's Markdown, a block of HCL that uses the module has to set variables that exist and all that have no default;
`module.NAME.OUTPUT` and `terraform output OUTPUT` have to be outputs, and `module.NAME.TYPE.RESOURCE` a resource. docs/operate.md
says what to do about each alert, and the pages that the module's files name exist, with the heading that is named.
"""

import pathlib
import re
import sys

INFRA = pathlib.Path(__file__).resolve().parent.parent
REPOSITORY = INFRA.parent
README = INFRA / "README.md"


def blocks(path, kind):
    """Yields the name and the body of each block `kind "NAME" { … }` of a formatted file."""
    yield from re.findall(rf'^{kind} "(\w+)" {{\n(.*?)^}}$', path.read_text(), re.M | re.S)


def argument(body, name):
    """The text of an argument of a block, over as many lines as its brackets need; None where there is none."""
    found = re.search(rf"^  {name} += (<<-?EOT\n.*?\n +EOT|.*?)(?=\n  \w+ |\n\n|\n  \w+ {{|\n?\Z)", body, re.M | re.S)
    return found and found[1].strip()


def sentence(description):
    """The first sentence of a description."""
    if description.startswith("<<"):
        description = " ".join(line.strip() for line in description.splitlines()[1:-1])
    else:
        description = description.strip('"').replace('\\"', '"')
    return re.match(r".*?\.(?=\s|$)", description)[0]


def short_type(text):
    """A type without what is in its objects."""
    text = " ".join(text.split())
    return re.sub(r"object\(\{.*\}\)", "object", text)


def variables():
    for name, body in blocks(INFRA / "variables.tf", "variable"):
        default = argument(body, "default")
        yield name, short_type(argument(body, "type")), default, sentence(argument(body, "description"))


def outputs():
    for name, body in blocks(INFRA / "outputs.tf", "output"):
        yield name, sentence(argument(body, "description"))


def tables():
    rows = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, type_, default, meaning in variables():
        rows.append(f"| `{name}` | {type_} | {'required' if default is None else f'`{default}`'} | {meaning} |")
    yield "variables", "\n".join(rows)
    rows = ["| output | meaning |", "|---|---|"]
    rows += [f"| `{name}` | {meaning} |" for name, meaning in outputs()]
    yield "outputs", "\n".join(rows)


def check_tables(write):
    text = README.read_text()
    for name, table in tables():
        place = re.compile(rf"(<!-- {name} -->\n)(.*?)(\n<!-- end of {name} -->)", re.S)
        found = place.search(text)
        if not found:
            yield f"README.md has no place for the table of {name}"
        elif found[2] != table:
            if not write:
                yield f"README.md: the table of {name} is not that of the module: infra/tests/check_readme.py --write"
            text = place.sub(lambda found: found[1] + table + found[3], text)
    if write:
        README.write_text(text)


def check_names():
    known = {name: default for name, _, default, _ in variables()}
    told = {name for name, _ in outputs()}
    resources = {pair for file in INFRA.glob("*.tf") for pair in re.findall(r'^resource "(\w+)" "(\w+)"', file.read_text(), re.M)}
    pages = [*INFRA.glob("*.md"), *REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("**/*.md")]
    for page in pages:
        text = page.read_text()
        where = page.relative_to(REPOSITORY)
        for block in re.findall(r"^```(?:hcl|terraform)\n(.*?)^```$", text, re.M | re.S):
            for name, body in re.findall(r'^module "(\w+)" {\n(.*?)^}$', block, re.M | re.S):
                if not re.search(r'^  source += "[^"]*infra"', body, re.M):
                    continue
                used = set(re.findall(r"^  (\w+) +=", body, re.M)) - {"source", "for_each", "count", "providers"}
                yield from (f"{where}: the module has no variable {unknown}" for unknown in sorted(used - known.keys()))
                needed = {variable for variable, default in known.items() if default is None}
                yield from (f"{where}: module {name} does not set {missing}" for missing in sorted(needed - used))
        for type_, resource in re.findall(r"module\.\w+\.(google_\w+)\.(\w+)", text):
            if (type_, resource) not in resources:
                yield f"{where}: the module has no resource {type_}.{resource}"
        for output in re.findall(r"module\.\w+\.(?!google_)(\w+)|terraform output (?:-\w+ )*(\w+)", text):
            output = output[0] or output[1]
            if output not in told:
                yield f"{where}: the module has no output {output}"
    text = README.read_text()
    for example in sorted((INFRA / "examples").iterdir()):
        if f"`{example.name}`" not in text and f"({'examples/' + example.name}" not in text:
            yield f"README.md does not name the example {example.name}"
    for alert in re.findall(r'^resource "google_monitoring_alert_policy" "(\w+)"', (INFRA / "alerts.tf").read_text(), re.M):
        if f"`{alert}`" not in text:
            yield f"README.md does not name the alert {alert}"
    # The accounts and the lifecycle rules, as the tables tell them.
    identities, bucket = (INFRA / "identities.tf").read_text(), (INFRA / "bucket.tf").read_text()
    creates = re.search(r"^  creates = {\n(.*?)^  }$", identities, re.M | re.S)[1]
    for account, folders in re.findall(r"^      (\w+) += \[(.*)\]$", creates, re.M):
        folders = " ".join(re.findall(r"\w+", folders))
        if not re.search(rf"^\| {account} \| reads; creates below `{folders}`", text, re.M):
            yield f"README.md does not tell that {account} creates below {folders}"
    for folder, days in re.findall(r"^    (\w+) += (\d+)", re.search(r"short_lived = {\n(.*?)^  }$", bucket, re.M | re.S)[1], re.M):
        if f"| `{folder}/` | after {days} days |" not in text:
            yield f"README.md does not tell that {folder}/ is deleted after {days} days"
    for file in sorted(INFRA.glob("*.tf")):
        if file.name != "main.tf" and file.name not in (INFRA / "main.tf").read_text() + "variables.tf outputs.tf versions.tf":
            yield f"main.tf does not tell what {file.name} is about"


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ +(.*)$", text, re.M)}


def check_operate():
    page = REPOSITORY / "docs" / "operate.md"
    headings, text = anchors(page), page.read_text()
    for alert in re.findall(r'^resource "google_monitoring_alert_policy" "(\w+)"', (INFRA / "alerts.tf").read_text(), re.M):
        if alert not in headings:
            yield f"docs/operate.md has no heading for the alert {alert}"
        if f"| [`{alert}`](#{alert}) |" not in text:
            yield f"docs/operate.md: the table of alerts has no row for {alert}"
        if f"docs/operate.md#{alert}" not in (INFRA / "alerts.tf").read_text():
            yield f"alerts.tf does not lead from the alert {alert} to docs/operate.md#{alert}"
    for file in sorted(INFRA.glob("*.tf")):
        for name, anchor in re.findall(r"\b(docs/[\w-]+\.md)(?:#([\w-]+))?", file.read_text()):
            if not (REPOSITORY / name).exists():
                yield f"{file.name} names {name}, which is not there"
            elif anchor and anchor not in anchors(REPOSITORY / name):
                yield f"{file.name} names {name}#{anchor}, and there is no such heading"


def main():
    faults = [*check_tables("--write" in sys.argv[1:]), *check_names(), *check_operate()]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
