//! The arguments of one method in a phrase: only what its card declares, every value checked against its kind.

use std::fmt;

use crate::{Budget, Card, Kind};

/// What a piece of a phrase says, or why it cannot be; [`crate::Parser`] adds where.
pub type Reading<T> = Result<T, String>;

/// One argument's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Of [`Kind::Int`].
    Int(u32),
    /// Of [`Kind::Float`].
    Float(f32),
    /// Of [`Kind::Bytes`].
    Bytes(u64),
    /// Of [`Kind::Choice`].
    Word(&'static str),
}

impl Value {
    /// Reads `text` as `kind`; the error says what was expected.
    pub(crate) fn read(kind: Kind, text: &str) -> Reading<Self> {
        match kind {
            Kind::Int { min, max } => {
                if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(format!("expected a whole number from {min} to {max}, got `{text}`"));
                }
                match text.parse() {
                    Ok(value) if (min..=max).contains(&value) => Ok(Self::Int(value)),
                    _ => Err(format!("`{text}` is outside {min} to {max}")),
                }
            }
            Kind::Float { min, max } => {
                // Rust also reads `inf` and `nan`.
                let digits = text.bytes().all(|b| b.is_ascii_digit() || b".+-eE".contains(&b));
                match text.parse::<f32>() {
                    Ok(value) if digits && (min..=max).contains(&value) => Ok(Self::Float(value + 0.0)),
                    Ok(_) if digits => Err(format!("`{text}` is outside {min} to {max}")),
                    _ => Err(format!("expected a number from {min} to {max}, got `{text}`")),
                }
            }
            Kind::Bytes => match Budget::read(text) {
                Ok(Budget::Bytes(bytes)) => Ok(Self::Bytes(bytes)),
                _ => Err(format!("expected bytes such as `512MiB`, got `{text}`")),
            },
            Kind::Choice(words) => match words.iter().find(|w| **w == text) {
                Some(word) => Ok(Self::Word(word)),
                None => Err(format!("expected {}, got `{text}`{}", words.join(" or "), meant(text, words))),
            },
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Bytes(bytes) => write!(f, "{}", Budget::Bytes(*bytes)),
            Self::Word(word) => f.write_str(word),
        }
    }
}

/// The arguments of one method: what the plan named, and the card's defaults for the rest.
#[derive(Clone, Debug)]
pub struct Args {
    card: &'static Card,
    /// One per argument of the card; `None`: not named.
    named: Vec<Option<Value>>,
}

impl PartialEq for Args {
    fn eq(&self, other: &Self) -> bool {
        (self.card.shelf, self.card.id) == (other.card.shelf, other.card.id) && self.named == other.named
    }
}

impl Args {
    /// Nothing named.
    pub fn new(card: &'static Card) -> Self {
        Self { card, named: vec![None; card.args.len()] }
    }

    /// The named arguments in the card's order.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, Value)> + '_ {
        self.card.args.iter().zip(&self.named).filter_map(|(arg, value)| Some((arg.name, (*value)?)))
    }

    /// The index of an argument that may still be set.
    ///
    /// # Errors
    /// The nearest name.
    pub fn find(&self, name: &str) -> Reading<usize> {
        let id = self.card.id;
        let names: Vec<_> = self.card.args.iter().map(|a| a.name).collect();
        match names.iter().position(|n| *n == name) {
            Some(i) if self.named[i].is_some() => Err(format!("`{name}` is set twice")),
            Some(i) => Ok(i),
            None if names.is_empty() => Err(format!("`{id}` takes no arguments, got `{name}`")),
            None => Err(format!(
                "`{id}` has no argument `{name}`{}; arguments: {}",
                meant(name, &names),
                names.join(", ")
            )),
        }
    }

    /// Sets what [`Args::find`] found.
    ///
    /// # Errors
    /// What was expected.
    pub fn set(&mut self, index: usize, text: &str) -> Reading<()> {
        let arg = self.card.args[index];
        let value = Value::read(arg.kind, text).map_err(|why| format!("`{}`: {why}", arg.name))?;
        self.named[index] = Some(value);
        Ok(())
    }

    /// The value named in the plan.
    fn given(&self, name: &str) -> Option<Value> {
        self.named[self.index(name)]
    }

    /// The value named in the plan, else the card's default.
    fn value(&self, name: &str) -> Value {
        let arg = self.card.args[self.index(name)];
        self.given(name).unwrap_or_else(|| match Value::read(arg.kind, arg.default) {
            Ok(value) => value,
            Err(why) => panic!("card of `{}`, default of `{name}`: {why}", self.card.id),
        })
    }

    /// A method that reads what its card does not declare is a mistake in the method, caught by the shelf's tests.
    fn index(&self, name: &str) -> usize {
        let found = self.card.args.iter().position(|a| a.name == name);
        found.unwrap_or_else(|| panic!("card of `{}` declares no `{name}`", self.card.id))
    }

    /// A whole number, by default the card's.
    ///
    /// # Panics
    /// As all the readers: if the card does not declare `name` with this kind and a default that reads as it.
    pub fn int(&self, name: &str) -> u32 {
        match self.value(name) {
            Value::Int(value) => value,
            other => panic!("`{name}` of `{}` is `{other}`, not a whole number", self.card.id),
        }
    }

    /// A whole number if the plan named it.
    pub fn given_int(&self, name: &str) -> Option<u32> {
        self.given(name).map(|_| self.int(name))
    }

    /// Bytes if the plan named them.
    pub fn given_bytes(&self, name: &str) -> Option<u64> {
        match self.given(name)? {
            Value::Bytes(bytes) => Some(bytes),
            other => panic!("`{name}` of `{}` is `{other}`, not bytes", self.card.id),
        }
    }

    /// A word if the plan named it.
    pub fn given_word(&self, name: &str) -> Option<&'static str> {
        self.given(name).map(|_| self.word(name))
    }

    /// A number, by default the card's.
    pub fn float(&self, name: &str) -> f32 {
        match self.value(name) {
            Value::Float(value) => value,
            other => panic!("`{name}` of `{}` is `{other}`, not a number", self.card.id),
        }
    }

    /// A word, by default the card's.
    pub fn word(&self, name: &str) -> &'static str {
        match self.value(name) {
            Value::Word(word) => word,
            other => panic!("`{name}` of `{}` is `{other}`, not a word", self.card.id),
        }
    }
}

impl fmt::Display for Args {
    /// `(a=1, b=x)`, or nothing where nothing was named.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<_> = self.named().map(|(name, value)| format!("{name}={value}")).collect();
        if list.is_empty() { Ok(()) } else { write!(f, "({})", list.join(", ")) }
    }
}

/// `; did you mean …` with the nearest of `names` by edit distance, or nothing without names.
pub fn meant(got: &str, names: &[&str]) -> String {
    let got = got.to_lowercase();
    let nearest = names.iter().min_by_key(|n| strsim::damerau_levenshtein(&got, &n.to_lowercase()));
    nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_by_its_kind_and_range() {
        let int = Kind::Int { min: 1, max: 9 };
        assert_eq!(Value::read(int, "9"), Ok(Value::Int(9)));
        for bad in ["", "0", "10", "-1", "1.0", "x", "99999999999999999999"] {
            assert!(Value::read(int, bad).is_err(), "{bad}");
        }
        let float = Kind::Float { min: 0.0, max: 1.0 };
        assert_eq!(Value::read(float, "1e-1"), Ok(Value::Float(0.1)));
        for bad in ["", "nan", "inf", "1e99", "-0.1", "1.1", "infinity", "0.5.5"] {
            assert!(Value::read(float, bad).is_err(), "{bad}");
        }
        let why = Value::read(Kind::Choice(&["own", "rank"]), "rnak").unwrap_err();
        assert_eq!(why, "expected own or rank, got `rnak`; did you mean `rank`?");
    }
}
