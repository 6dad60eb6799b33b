//! Files of credentials of every kind, as Google's tools write them, whose tokens come from the server that stands for Google.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::server::Server;
use crate::support::requirements::skipped;

/// The service account that keys and impersonation name.
pub const ACCOUNT: &str = "writer@test-project.iam.gserviceaccount.com";

fn write(folder: &Path, name: &str, content: &Value) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content.to_string()).unwrap();
    path
}

/// Returns a person's login, as `gcloud auth application-default login` leaves it; `revoked` in the token makes it a
/// revoked one.
pub fn person(server: &Server, refresh_token: &str) -> Value {
    json!({
        "type": "authorized_user", "client_id": "id.apps.googleusercontent.com", "client_secret": "secret",
        "refresh_token": refresh_token, "token_uri": format!("{}/token", server.url()),
    })
}

/// Writes a file with a person's login.
pub fn person_file(folder: &Path, server: &Server, refresh_token: &str) -> PathBuf {
    write(folder, "person.json", &person(server, refresh_token))
}

/// Writes a file with a service account's key, made for this test alone; `None`, after printing why, if `openssl` is not
/// available.
pub fn key_file(folder: &Path) -> Option<PathBuf> {
    let made =
        Command::new("openssl").args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]).output();
    let Some(made) = made.ok().filter(|made| made.status.success()) else {
        skipped("openssl", "it makes no key here");
        return None;
    };
    Some(key_file_with(folder, &String::from_utf8(made.stdout).unwrap()))
}

/// Writes a service account's key file with this as private key.
pub fn key_file_with(folder: &Path, private_key: &str) -> PathBuf {
    let key = json!({
        "type": "service_account", "project_id": "test-project", "private_key_id": "0123456789abcdef",
        "private_key": private_key, "client_email": ACCOUNT, "client_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token", "universe_domain": "googleapis.com",
    });
    write(folder, "key.json", &key)
}

/// Writes a file with the configuration of a workload elsewhere, whose own token is in a file.
pub fn workload_file(folder: &Path, server: &Server) -> PathBuf {
    std::fs::write(folder.join("own-token"), "header.claims.signature").unwrap();
    let workload = json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/7/locations/global/workloadIdentityPools/ci/providers/github",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{}/v1/token", server.url()),
        "credential_source": { "file": folder.join("own-token") },
    });
    write(folder, "workload.json", &workload)
}

/// Writes a file with a person who acts as a service account.
pub fn impersonation_file(folder: &Path, server: &Server) -> PathBuf {
    let url = format!("{}/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken", server.url());
    let impersonation = json!({
        "type": "impersonated_service_account", "service_account_impersonation_url": url,
        "source_credentials": person(server, "good"),
    });
    write(folder, "impersonation.json", &impersonation)
}
