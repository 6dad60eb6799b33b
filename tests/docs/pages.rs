//! The pages, and the blocks and spans of code in them.

use std::fs;
use std::path::{Path, PathBuf};

/// A page of Markdown.
pub struct Page {
    /// Its path in the repository.
    pub name: String,
    pub text: String,
}

/// A fenced block of code.
pub struct Block<'p> {
    /// The number of its first line in the page, from 0.
    pub line: usize,
    pub language: &'p str,
    pub lines: Vec<&'p str>,
}

/// The folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and all pages of docs/.
pub fn all() -> Vec<Page> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    paths.sort();
    paths.insert(0, root().join("README.md"));
    paths.into_iter().map(|path| Page::read(&path)).collect()
}

/// One page of docs/.
pub fn page(name: &str) -> Page {
    Page::read(&root().join("docs").join(name))
}

impl Page {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        Page { name: path.strip_prefix(root()).unwrap().display().to_string(), text }
    }

    /// Its fenced blocks.
    pub fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open = false;
        for (at, line) in self.text.lines().enumerate() {
            let number = at + 1;
            assert!(
                !line.starts_with([' ', '\t']) || !line.trim_start().starts_with("```"),
                "{self}:{number}: indented"
            );
            match (line.strip_prefix("```"), open) {
                (Some(language), false) => {
                    blocks.push(Block { line: number, language, lines: Vec::new() });
                    open = true;
                }
                (Some(rest), true) => {
                    assert_eq!(rest, "", "{self}:{number}: a block ends with ``` alone");
                    open = false;
                }
                (None, true) => blocks.last_mut().unwrap().lines.push(line),
                (None, false) => {}
            }
        }
        assert!(!open, "{self}: the last block does not end");
        blocks
    }

    /// Its lines outside of blocks; the lines of blocks are empty.
    pub fn prose(&self) -> Vec<&str> {
        let mut open = false;
        let outside = |line| {
            let fence = str::starts_with(line, "```");
            open ^= fence;
            if open || fence { "" } else { line }
        };
        self.text.lines().map(outside).collect()
    }

    /// The code in its sentences and tables, which may go on in the next line.
    pub fn spans(&self) -> Vec<String> {
        let prose = self.prose().join("\n");
        let paragraphs = prose.split("\n\n");
        let spans = paragraphs.flat_map(|paragraph| {
            let parts: Vec<&str> = paragraph.split('`').collect();
            assert!(parts.len() % 2 == 1, "{self}: a backtick without another one: {paragraph}");
            parts.into_iter().skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect::<Vec<_>>()
        });
        spans.collect()
    }

    /// The cells of the rows of its tables, heads left out.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let prose = self.prose();
        let is_rule = |line: &str| line.starts_with('|') && line.chars().all(|c| matches!(c, '|' | '-' | ' ' | ':'));
        let is_head = |at: usize| prose.get(at + 1).is_some_and(|next| is_rule(next));
        let rows = (0..prose.len()).filter(|at| prose[*at].starts_with('|') && !is_rule(prose[*at]) && !is_head(*at));
        let cells = |row: &str| {
            // A bar in a cell is written `\|`.
            let row = row.replace("\\|", "\u{1}");
            row.trim().trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
        };
        rows.map(|at| cells(prose[at])).collect()
    }
}

impl std::fmt::Display for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}
