//! Rust sources, read as far as imports need it: words and punctuation, without comments, texts and tests.

use std::fs;
use std::path::Path;

/// A word, or one character of punctuation; `::` is one token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    Word(String),
    Mark(char),
    Colons,
}

/// One file, without what is compiled for tests alone.
pub struct Source(Vec<Token>);

/// Returns the tokens of a text. Comments, strings and characters are left out.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut found, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            i += 2;
            while i < chars.len() && (chars[i], at(i + 1)) != ('*', '/') {
                i += 1;
            }
            i += 2;
        } else if c == '"' {
            i += 1;
            while i < chars.len() && chars[i] != '"' {
                i += if chars[i] == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while i < chars.len() && chars[i] != '\'' {
                i += 1;
            }
            i += 1;
        } else if c == '_' || c.is_alphanumeric() {
            let begin = i;
            while at(i) == '_' || at(i).is_alphanumeric() {
                i += 1;
            }
            let word: String = chars[begin..i].iter().collect();
            // A raw string ends with as many signs as it begins with.
            let signs = (i..chars.len()).take_while(|n| chars[*n] == '#').count();
            if matches!(&*word, "r" | "br" | "cr") && at(i + signs) == '"' {
                let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', signs)).collect();
                i += signs + 1;
                while i < chars.len() && !chars[i..].starts_with(&end) {
                    i += 1;
                }
                i += end.len();
            } else {
                found.push(Token::Word(word));
            }
        } else if c == ':' && at(i + 1) == ':' {
            found.push(Token::Colons);
            i += 2;
        } else {
            if !c.is_whitespace() {
                found.push(Token::Mark(c));
            }
            i += 1;
        }
    }
    found
}

fn word(text: &str) -> Token {
    Token::Word(text.to_owned())
}

/// Returns the index after the bracket that closes the one at `open`, or after the next `;` where there is none.
fn end_of_item(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(from) {
        match token {
            Token::Mark('{' | '(' | '[') => depth += 1,
            Token::Mark('}') if depth == 1 => return i + 1,
            Token::Mark('}' | ')' | ']') => depth -= 1,
            Token::Mark(';') if depth == 0 => return i + 1,
            _ => {}
        }
    }
    tokens.len()
}

impl Source {
    /// Reads a file of this crate.
    pub fn read(file: &Path) -> Self {
        let all = tokens(&fs::read_to_string(file).unwrap_or_else(|why| panic!("{}: {why}", file.display())));
        let cfg_test: Vec<Token> = tokens("#[cfg(test)]");
        let (mut kept, mut i) = (Vec::new(), 0);
        while i < all.len() {
            if all[i..].starts_with(&cfg_test) {
                i = end_of_item(&all, i + cfg_test.len());
            } else {
                kept.push(all[i].clone());
                i += 1;
            }
        }
        Source(kept)
    }

    /// Returns the modules that are declared in files of their own, in order, and whether they are `pub`.
    pub fn children(&self) -> Vec<(String, bool)> {
        let is_module = |three: &[Token]| match three {
            [Token::Word(keyword), Token::Word(name), Token::Mark(';')] if keyword == "mod" => Some(name.clone()),
            _ => None,
        };
        let found = self.0.windows(3).enumerate().filter_map(|(i, three)| Some((is_module(three)?, i)));
        found.map(|(name, i)| (name, i > 0 && self.0[i - 1] == word("pub"))).collect()
    }

    /// Returns all words but the names of macros.
    pub fn words(&self) -> impl Iterator<Item = String> {
        self.0.iter().enumerate().filter_map(|(i, token)| match token {
            Token::Word(word) if self.0.get(i + 1) != Some(&Token::Mark('!')) => Some(word.clone()),
            _ => None,
        })
    }

    /// Returns the paths within the crate that the file names, from the crate's root; it is the file of `module`. Paths
    /// that it only passes on with `pub use` are left out.
    pub fn paths(&self, module: &[String]) -> Vec<Vec<String>> {
        let children = self.children();
        let (mut found, mut i) = (Vec::new(), 0);
        while i < self.0.len() {
            let before = i.checked_sub(1).map(|before| &self.0[before]);
            match &self.0[i] {
                Token::Word(first) if first == "use" && before == Some(&word("pub")) => i = end_of_item(&self.0, i),
                Token::Word(first) if before != Some(&Token::Colons) && self.0.get(i + 1) == Some(&Token::Colons) => {
                    let base = match &**first {
                        "crate" => Some(Vec::new()),
                        "self" => Some(module.to_vec()),
                        "super" => Some(module[..module.len().saturating_sub(1)].to_vec()),
                        name if children.iter().any(|(child, _)| child == name) => {
                            Some([module.to_vec(), vec![name.to_owned()]].concat())
                        }
                        _ => None,
                    };
                    match base {
                        Some(base) => i = self.tree(i + 2, base, &mut found),
                        None => i += 1,
                    }
                }
                _ => i += 1,
            }
        }
        found
    }

    /// Reads what follows `::` after `base`: names, a group in braces, a star.
    fn tree(&self, mut i: usize, mut base: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
        loop {
            match self.0.get(i) {
                Some(Token::Word(name)) => {
                    match &**name {
                        "super" => drop(base.pop()),
                        "self" => {}
                        name => base.push(name.to_owned()),
                    }
                    i += 1;
                    if self.0.get(i) != Some(&Token::Colons) {
                        found.push(base);
                        return i;
                    }
                    i += 1;
                }
                Some(Token::Mark('{')) => {
                    i += 1;
                    while self.0.get(i).is_some_and(|token| *token != Token::Mark('}')) {
                        i = match self.0[i] {
                            Token::Word(_) => self.tree(i, base.clone(), found),
                            _ => i + 1,
                        };
                    }
                    return i + 1;
                }
                _ => {
                    found.push(base);
                    return i;
                }
            }
        }
    }
}
