//! Checks what the credentials may do to a bucket: what is needed, what is more than that, and the commands that change it.
//!
//! The permissions are Cloud Storage's (<https://docs.cloud.google.com/storage/docs/access-control/iam-permissions>), the
//! roles its predefined ones (<https://docs.cloud.google.com/storage/docs/access-control/iam-roles>).

use std::path::Path;

use super::check::DoctorCheck;
use super::lifecycle;
use crate::fs::read_named;
use crate::gcp::credentials::{CredentialSource, LARGEST};
use crate::shell::word;

/// The permissions that a vault needs: the check's name, the permission, the role that gives it, and what fails without it.
const NEEDED: [(&str, &str, &str, &str); 3] = [
    (
        "may create",
        "storage.objects.create",
        CREATOR,
        "`backup` and `init` fail without it; a `restore` does not need it",
    ),
    ("may get", "storage.objects.get", VIEWER, "every command fails without it"),
    ("may list", "storage.objects.list", VIEWER, "every command fails without it"),
];
/// The check whose permission only backups need, and a condition may grant.
const MAY_CREATE: &str = "may create";
const CREATOR: &str = "roles/storage.objectCreator";
const VIEWER: &str = "roles/storage.objectViewer";

/// The permissions that can destroy backups: to delete and overwrite objects; to let them be deleted by `customTime`; to grant
/// oneself any of this; to remove the bucket; to give it a lifecycle rule that deletes.
const TOO_MUCH: [&str; 5] = [
    "storage.objects.delete",
    "storage.objects.update",
    "storage.buckets.setIamPolicy",
    "storage.buckets.delete",
    "storage.buckets.update",
];

/// Returns all permissions that are asked for.
pub fn asked() -> Vec<&'static str> {
    NEEDED.iter().map(|needed| needed.1).chain(TOO_MUCH).chain([lifecycle::MAY_ASK]).collect()
}

/// The member that a role is granted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// As `--member` takes it, with a placeholder in capitals where it is not known.
    name: String,
    /// A note on what to put in place of the placeholder.
    note: Option<&'static str>,
    /// Whether it is a person, not a service account.
    person: bool,
}

impl Member {
    /// Returns the member whose credentials these are; `account` is what is known of it.
    pub fn of(found: &CredentialSource, account: Option<&str>) -> Member {
        let known = |kind: &str, account: &str| format!("{kind}:{account}");
        match (found, account) {
            (CredentialSource::File { r#type, .. }, account) if r#type == "authorized_user" => Member {
                name: account.map_or("user:YOUR-ACCOUNT".into(), |account| known("user", account)),
                note: account
                    .is_none()
                    .then_some("YOUR-ACCOUNT is the one that `gcloud auth application-default login` was done with."),
                person: true,
            },
            (_, Some(account)) => Member { name: known("serviceAccount", account), note: None, person: false },
            (CredentialSource::File { path, r#type, .. }, None) if r#type == "external_account" => {
                let pool = pool(path).unwrap_or_else(|| {
                    "iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL".into()
                });
                Member {
                    name: format!("principal://{pool}/subject/SUBJECT"),
                    note: Some("SUBJECT is the `sub` of the tokens that the workload identity pool is given."),
                    person: false,
                }
            }
            _ => Member {
                name: "serviceAccount:ACCOUNT".into(),
                note: Some("ACCOUNT is the service account that this runs as."),
                person: false,
            },
        }
    }

    fn grant(&self, bucket: &str, role: &str) -> String {
        grant(bucket, &self.name, role)
    }

    fn take(&self, of: &str, role: &str) -> String {
        format!("gcloud {of} --member={} --role={role}", word(&self.name))
    }

    fn noted(&self, advice: String) -> String {
        self.note.map_or(advice.clone(), |note| format!("{advice} {note}"))
    }
}

fn grant(bucket: &str, member: &str, role: &str) -> String {
    format!("gcloud storage buckets add-iam-policy-binding gs://{bucket} --member={} --role={role}", word(member))
}

/// Returns the workload identity pool that a configuration names: the audience is
/// `//…/workloadIdentityPools/POOL/providers/PROVIDER`.
fn pool(path: &Path) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(&read_named(path, LARGEST).ok()?.0).ok()?;
    let audience = json.get("audience")?.as_str()?.strip_prefix("//")?;
    let (pool, _) = audience.split_once("/providers/")?;
    pool.contains("/workloadIdentityPools/").then(|| pool.to_owned())
}

/// Returns the checks that follow from the permissions that are held.
pub fn judge(held: &[String], bucket: &str, member: &Member, project: Option<&str>) -> Vec<DoctorCheck> {
    let is_held = |permission: &str| held.iter().any(|held| held == permission);
    let mut checks: Vec<DoctorCheck> = Vec::new();
    for (name, permission, role, without) in NEEDED {
        if is_held(permission) {
            checks.push(DoctorCheck::ok(name, format!("{permission} is held")));
            continue;
        }
        // The bucket is asked as a whole. A condition on the names of objects may grant what is not held there, except for a
        // listing, which is of the whole bucket, and for reading `vault.json`, which every command does.
        let missing = match name {
            MAY_CREATE => DoctorCheck::warning(
                name,
                format!(
                    "{permission} is not held in the whole bucket. Unless a condition grants it below the vault's prefix, {without}"
                ),
            ),
            _ => DoctorCheck::problem(name, format!("{permission} is missing: {without}")),
        };
        let command = member.grant(bucket, role);
        let said = checks.iter().any(|check| check.commands.contains(&command));
        checks.push(match said {
            true => missing.advice("The last command grants it, too."),
            false => {
                missing.advice(member.noted("Somebody who may grant roles on the bucket runs:".into())).run(command)
            }
        });
    }
    checks.push(too_much(&is_held, bucket, member, project.unwrap_or("PROJECT")));
    checks
}

fn too_much(is_held: &dyn Fn(&str) -> bool, bucket: &str, member: &Member, project: &str) -> DoctorCheck {
    let name = "may not destroy";
    let held: Vec<_> = TOO_MUCH.into_iter().filter(|permission| is_held(permission)).collect();
    let role = match held[..] {
        [] => {
            return DoctorCheck::ok(
                name,
                "no permission to delete, overwrite or change what is stored, nor to grant one",
            );
        }
        [.., last] if last.starts_with("storage.buckets.") => "roles/storage.admin",
        [_, _] => "roles/storage.objectAdmin",
        _ => "ROLE",
    };
    let found = format!(
        "more is held than a backup needs: {}. Whoever gets these credentials can destroy the backups",
        held.join(", ")
    );
    let check = DoctorCheck::warning(name, found);
    if member.person {
        let writer = format!("lastgood-writer@{project}.iam.gserviceaccount.com");
        let to = format!("serviceAccount:{writer}");
        return check
            .advice(
                "These are a person's own credentials, which is right for looking and restoring. Let backups run as a \
                 service account that may do no more than they need. This makes one and attaches it:",
            )
            .run(format!("gcloud iam service-accounts create lastgood-writer --project={project}"))
            .run(grant(bucket, &to, CREATOR))
            .run(grant(bucket, &to, VIEWER))
            .run(format!("gcloud run jobs update JOB --service-account={writer}"));
    }
    let guess = match role {
        "ROLE" => "ROLE is the role that has it; ",
        _ => "",
    };
    let advice = format!(
        "Grant what is needed, then take the wider role away, from the bucket or from the project, wherever it was granted \
         ({guess}the console's IAM page shows both):"
    );
    let mut check =
        check.advice(member.noted(advice)).run(member.grant(bucket, CREATOR)).run(member.grant(bucket, VIEWER));
    for of in [
        format!("storage buckets remove-iam-policy-binding gs://{bucket}"),
        format!("projects remove-iam-policy-binding {project}"),
    ] {
        check = check.run(member.take(&of, role));
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::CheckStatus;

    fn file(kind: &str) -> CredentialSource {
        CredentialSource::File { path: "/no/such".into(), r#type: kind.into(), account: None }
    }

    fn held(permissions: &[&str]) -> Vec<String> {
        permissions.iter().map(|&permission| permission.into()).collect()
    }

    fn outcomes(checks: &[DoctorCheck]) -> Vec<(&str, CheckStatus)> {
        checks.iter().map(|check| (check.name, check.outcome)).collect()
    }

    #[test]
    fn what_is_missing_and_what_is_too_much() {
        use CheckStatus::{Ok, Problem, Warning};
        let writer = Member::of(&file("service_account"), Some("w@p.iam.gserviceaccount.com"));
        let needed = ["storage.objects.create", "storage.objects.get", "storage.objects.list"];
        let good = judge(&held(&needed), "b-1", &writer, None);
        assert_eq!(outcomes(&good), [("may create", Ok), ("may get", Ok), ("may list", Ok), ("may not destroy", Ok)]);

        let none = judge(&[], "b-1", &writer, None);
        assert_eq!(outcomes(&none)[..3], [("may create", Warning), ("may get", Problem), ("may list", Problem)]);
        assert_eq!(
            none[0].commands,
            [
                "gcloud storage buckets add-iam-policy-binding gs://b-1 --member=serviceAccount:w@p.iam.gserviceaccount.com \
              --role=roles/storage.objectCreator"
            ]
        );
        assert!(none[1].commands[0].ends_with("--role=roles/storage.objectViewer"), "{none:?}");
        // One command gives both.
        assert!(none[2].commands.is_empty() && none[2].advice.as_ref().unwrap().contains("last command"), "{none:?}");

        let admin = judge(&held(&asked()), "b-1", &writer, Some("p-1"));
        assert_eq!(outcomes(&admin)[3], ("may not destroy", Warning));
        assert!(TOO_MUCH.iter().all(|permission| admin[3].found.contains(permission)), "{admin:?}");
        let taken = "projects remove-iam-policy-binding p-1 --member=serviceAccount:w@p.iam.gserviceaccount.com \
                     --role=roles/storage.admin";
        assert_eq!(admin[3].commands.len(), 4);
        assert!(admin[3].commands[3].ends_with(taken), "{admin:?}");
        let some = [&needed[..], &["storage.objects.delete", "storage.objects.update"]].concat();
        assert!(judge(&held(&some), "b-1", &writer, None)[3].commands[2].ends_with("roles/storage.objectAdmin"));
    }

    #[test]
    fn whom_a_role_is_granted_to() {
        let name = |found: &CredentialSource, account: Option<&str>| Member::of(found, account).name;
        assert_eq!(name(&file("authorized_user"), Some("a@b.c")), "user:a@b.c");
        assert_eq!(name(&file("authorized_user"), None), "user:YOUR-ACCOUNT");
        assert_eq!(name(&CredentialSource::Metadata { host: "m".into() }, Some("a@b.c")), "serviceAccount:a@b.c");
        assert_eq!(name(&CredentialSource::Metadata { host: "m".into() }, None), "serviceAccount:ACCOUNT");
        assert_eq!(name(&file("impersonated_service_account"), Some("a@b.c")), "serviceAccount:a@b.c");

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wif.json");
        let pool = "iam.googleapis.com/projects/7/locations/global/workloadIdentityPools/ci";
        std::fs::write(&path, format!(r#"{{"audience":"//{pool}/providers/github"}}"#)).unwrap();
        let found = CredentialSource::File { path, r#type: "external_account".into(), account: None };
        assert_eq!(name(&found, None), format!("principal://{pool}/subject/SUBJECT"));
        assert_eq!(name(&found, Some("a@b.c")), "serviceAccount:a@b.c");

        let person = Member::of(&file("authorized_user"), None);
        let owner = judge(&held(&asked()), "b-1", &person, Some("p-1"));
        assert!(owner[3].commands[0].contains("service-accounts create lastgood-writer --project=p-1"), "{owner:?}");
    }
}
