//! Phrases such as `name(argument=value)`: what plans and mixers are written in, read with errors that point at the
//! character.

use std::fmt;

use crate::{Args, Card, Error, Result};

/// A word or one of the signs `( ) , = | @`, with its first character's number from 1.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// The characters.
    pub text: &'a str,
    /// The number of the first.
    pub column: usize,
}

const SIGNS: &str = "(),=|@";

impl Token<'_> {
    fn is_sign(&self) -> bool {
        SIGNS.contains(self.text)
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut start = None;
    for (column, (at, c)) in (1..).zip(text.char_indices()) {
        let ends = c.is_whitespace() || SIGNS.contains(c);
        if let Some((from, column)) = start.filter(|_| ends) {
            tokens.push(Token { text: &text[from..at], column });
            start = None;
        }
        if SIGNS.contains(c) {
            tokens.push(Token { text: &text[at..at + 1], column });
        } else if !ends && start.is_none() {
            start = Some((at, column));
        }
    }
    tokens.extend(start.map(|(from, column)| Token { text: &text[from..], column }));
    tokens
}

/// Reads a phrase from the left.
pub struct Parser<'a> {
    /// What the phrase is called in errors.
    what: &'static str,
    text: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    /// At the start of `text`, which errors call a `what`.
    pub fn new(what: &'static str, text: &'a str) -> Self {
        Self { what, text, tokens: tokens(text), at: 0 }
    }

    /// That `why` is wrong at `column`.
    pub fn error(&self, column: usize, why: impl fmt::Display) -> Error {
        Error::Plan { what: self.what, plan: self.text.into(), column, why: why.to_string() }
    }

    /// That the next token is not what it should be.
    pub fn expected(&self, want: &str) -> Error {
        match self.tokens.get(self.at) {
            Some(token) => self.error(token.column, format!("expected {want}, got `{}`", token.text)),
            None => self.error(self.text.chars().count() + 1, format!("expected {want}, got the end")),
        }
    }

    /// Whether everything was read.
    pub fn is_done(&self) -> bool {
        self.at == self.tokens.len()
    }

    /// Reads `sign` if it is next.
    pub fn take(&mut self, sign: &str) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|token| token.text == sign);
        self.at += usize::from(found);
        found
    }

    /// Reads the next token if it is no sign.
    pub fn word(&mut self) -> Option<Token<'a>> {
        let token = self.tokens.get(self.at).copied().filter(|token| !token.is_sign())?;
        self.at += 1;
        Some(token)
    }

    /// Reads a word.
    ///
    /// # Errors
    /// [`Error::Plan`] that `want` was expected.
    pub fn name(&mut self, want: &str) -> Result<Token<'a>> {
        self.word().ok_or_else(|| self.expected(want))
    }

    /// Reads `(name=value, …)`, or nothing.
    ///
    /// # Errors
    /// [`Error::Plan`] at the character at fault.
    pub fn args(&mut self, card: &'static Card) -> Result<Args> {
        let mut args = Args::new(card);
        if !self.take("(") || self.take(")") {
            return Ok(args);
        }
        loop {
            let name = self.name("an argument `name=value`")?;
            let index = args.find(name.text).map_err(|why| self.error(name.column, why))?;
            if !self.take("=") {
                return Err(self.expected(&format!("`=` after `{}`", name.text)));
            }
            let value = self.name(&format!("a value of `{}`", name.text))?;
            args.set(index, value.text).map_err(|why| self.error(value.column, why))?;
            if self.take(")") {
                return Ok(args);
            }
            if !self.take(",") {
                return Err(self.expected("`,` or `)`"));
            }
        }
    }
}
