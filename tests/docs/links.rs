//! Links lead somewhere, and pages are short and say which question they answer.

use std::collections::BTreeSet;
use std::path::{Component, PathBuf};

use super::pages::{self, Page};

/// The most lines of a page.
const LONGEST: usize = 200;
/// The most lines of README.md.
const README: usize = 150;
/// The most characters of a line outside of tables and blocks.
const WIDTH: usize = 142;
/// How the first sentence of a page begins, which ends with the question.
const ANSWERS: &str = "This page answers: ";

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &Page) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for heading in page.prose().into_iter().filter(|line| line.starts_with('#')) {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let mut again = (1..).map(|n| format!("{anchor}-{n}"));
        let free = if found.contains(&anchor) { again.find(|name| !found.contains(name)).unwrap() } else { anchor };
        found.insert(free);
    }
    found
}

/// Where the links of a page lead to, as they are written.
fn links(page: &Page) -> Vec<String> {
    let prose = page.prose().join("\n");
    // Code holds no links.
    let text: String = prose.split('`').step_by(2).collect();
    text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned()).collect()
}

/// Why a link of a page leads nowhere.
fn broken(page: &Page, link: &str, all: &[Page]) -> Option<String> {
    if link.starts_with("https://") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let folder = PathBuf::from(&page.name).parent().unwrap().to_owned();
    let mut to = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            Component::ParentDir => assert!(to.pop(), "{page}: {link} leads out of the repository"),
            part => to.push(part),
        }
    }
    let name = if path.is_empty() { page.name.clone() } else { to.display().to_string() };
    match all.iter().find(|page| page.name == name) {
        Some(page) if anchor.is_empty() || anchors(page).contains(anchor) => None,
        Some(_) => Some(format!("{page}: {link}: there is no such heading")),
        None if anchor.is_empty() && pages::root().join(&name).exists() => None,
        None => Some(format!("{page}: {link}: there is no {name}")),
    }
}

#[test]
fn links_lead_somewhere_and_every_page_is_in_the_index() {
    let all = pages::all();
    let mut wrong = Vec::new();
    for page in &all {
        wrong.extend(links(page).iter().filter_map(|link| broken(page, link, &all)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let index = all.iter().find(|page| page.name == "docs/README.md").unwrap();
    let listed = links(index);
    for page in all.iter().filter(|page| page.name.starts_with("docs/") && page.name != index.name) {
        let name = page.name.trim_start_matches("docs/");
        assert!(listed.iter().any(|link| link == name), "docs/README.md does not list {name}");
        assert!(links(page).iter().any(|link| !link.starts_with("https://")), "{page} leads to no other page");
    }
    assert!(links(&all[0]).iter().any(|link| link == "docs/README.md"), "README.md does not lead to the index");
    // One that leads nowhere is found.
    for link in ["none.md", "restore.md#nothing", "#nothing", "../src/none"] {
        assert!(broken(index, link, &all).is_some(), "{link}");
    }
}

#[test]
fn pages_are_short_and_say_what_they_answer() {
    let mut wrong = Vec::new();
    for page in pages::all() {
        let lines: Vec<&str> = page.text.lines().collect();
        let most = if page.name == "README.md" { README } else { LONGEST };
        if lines.len() > most {
            wrong.push(format!("{page} has {} lines", lines.len()));
        }
        let wide = |line: &&str| line.chars().count() > WIDTH && !line.starts_with('|') && !line.contains("](https://");
        let prose = page.prose();
        let wide = prose.iter().enumerate().filter(|(_, line)| wide(line));
        wrong.extend(wide.map(|(at, _)| format!("{page}:{}: wider than {WIDTH} characters", at + 1)));
        if page.name.ends_with("README.md") {
            continue;
        }
        let first = page.text.split("\n\n").nth(1).unwrap_or_default().replace('\n', " ");
        if !lines[0].starts_with("# ") || !first.strip_prefix(ANSWERS).is_some_and(|question| question.contains('?')) {
            wrong.push(format!("{page} does not begin with `{ANSWERS}…?`"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let readme = &pages::all()[0];
    for command in ["cargo run --release -- backup DIR", "cargo test", "cargo install --locked --path ."] {
        assert!(readme.text.contains(command), "README.md does not tell of `{command}`");
    }
}
