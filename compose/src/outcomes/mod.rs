//! What becomes of each key of the specification: the one list that the decoder refuses and notes from, that the table in
//! `docs/compose-keys.md` is made of, and that tests compare with the specification's schema. Owns the words; reads no file.
//!
//! A key is named by its path without the names and numbers of a file: `services.ports.target`. A key whose values end in
//! different ways has one row for each form.

mod contents;
mod deploy;
mod networks;
mod run;
mod service;
#[cfg(test)]
mod tests;
mod top;

use crate::fields::Refused;

/// One row: a key, or one form of its value.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The path in the specification's schema; `services.develop.*` is all below `services.develop`.
    pub path: &'static str,
    /// Which values are meant; empty for all, or for all that no other row names.
    pub form: &'static str,
    /// What becomes of it.
    pub outcome: Outcome,
    /// YAML that ends so: keys of a service for a path below `services.`, else a whole file.
    pub example: &'static str,
}

/// What becomes of a key. In texts `{}` stands for the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As the specification says; a live test observes it.
    Exact {
        /// It is what happens in any case.
        anyway: bool,
    },
    /// Honoured in another way, and a note says how.
    Mapped(&'static str),
    /// A file with it cannot be deployed.
    Refused {
        /// Whether it is to stay so.
        when: When,
        /// The reason.
        why: &'static str,
        /// What to do.
        hint: &'static str,
        /// The application runs as well without it: `--lenient` leaves it out with a note.
        cosmetic: bool,
    },
    /// Only a place for the keys below it.
    Place,
}

/// Whether a refusal is to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// It cannot or shall not be done here.
    Always,
    /// It is not built yet.
    Yet,
}

impl Key {
    const fn new(path: &'static str, outcome: Outcome, example: &'static str) -> Self {
        Self { path, form: "", outcome, example }
    }

    /// The application runs as well without it.
    const fn cosmetic(mut self) -> Self {
        if let Outcome::Refused { when, why, hint, .. } = self.outcome {
            self.outcome = Outcome::Refused { when, why, hint, cosmetic: true };
        }
        self
    }

    /// For one form of the value.
    const fn of(mut self, form: &'static str) -> Self {
        self.form = form;
        self
    }

    /// The key with its form, as one name: `services.ipc (host)`.
    pub fn name(&self) -> String {
        match self.form {
            "" => self.path.to_owned(),
            form => format!("{} ({form})", self.path),
        }
    }
}

const fn exact(path: &'static str, example: &'static str) -> Key {
    Key::new(path, Outcome::Exact { anyway: false }, example)
}

/// A value that asks for what happens in any case.
const fn anyway(path: &'static str, example: &'static str) -> Key {
    Key::new(path, Outcome::Exact { anyway: true }, example)
}

const fn mapped(path: &'static str, example: &'static str, note: &'static str) -> Key {
    Key::new(path, Outcome::Mapped(note), example)
}

const fn never(path: &'static str, example: &'static str, why: &'static str, hint: &'static str) -> Key {
    Key::new(path, Outcome::Refused { when: When::Always, why, hint, cosmetic: false }, example)
}

const fn later(path: &'static str, example: &'static str, why: &'static str, hint: &'static str) -> Key {
    Key::new(path, Outcome::Refused { when: When::Yet, why, hint, cosmetic: false }, example)
}

const fn place(path: &'static str) -> Key {
    Key::new(path, Outcome::Place, "")
}

/// All rows, in the order of the documentation.
pub fn all() -> impl Iterator<Item = &'static Key> {
    [service::KEYS, run::KEYS, networks::KEYS, deploy::KEYS, contents::KEYS, top::KEYS].into_iter().flatten()
}

/// The row of a key and form.
pub(crate) fn find(path: &str, form: &str) -> Option<&'static Key> {
    all().find(|key| key.path == path && key.form == form)
}

/// The keys of a mapping that are refused whatever they hold.
pub(crate) fn refused(scope: &str) -> Vec<Refused> {
    all()
        .filter(|key| key.form.is_empty())
        .filter_map(|key| {
            let (above, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
            match key.outcome {
                Outcome::Refused { why, hint, cosmetic, .. } if above == scope => {
                    Some(Refused { key: name, why, hint: Some(hint), cosmetic })
                }
                Outcome::Refused { .. } | Outcome::Exact { .. } | Outcome::Mapped(_) | Outcome::Place => None,
            }
        })
        .collect()
}
