//! One scalar as the value that its shape makes of it. Owns what each type accepts and how it is written in the canonical
//! model; lists and mappings are the callers'.

use serde_json::Value as Json;

use super::{Form, Shape};
use crate::canon::{port_span, scalar_text};
use crate::suggest;
use crate::units;
use crate::yaml::{Node, Plain, Value, plain};

/// Why a value is not what is wanted.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Wrong {
    /// It is of another type.
    pub(crate) fn other(shape: &Shape, node: &Node) -> Self {
        let hint = match (shape.wanted(), &node.value) {
            ("a string", Value::Scalar { text, .. }) => Some(format!("write it in quotes: \"{text}\"")),
            _ => None,
        };
        Self { message: format!("expected {}, found {}", shape.wanted(), node.kind()), hint }
    }

    fn because(message: impl Into<String>, hint: &str) -> Self {
        Self { message: message.into(), hint: Some(hint.to_owned()) }
    }
}

/// The value of a scalar; what is none, or of another shape, is wrong.
pub(crate) fn scalar(shape: &Shape, node: &Node) -> Result<Json, Wrong> {
    let Value::Scalar { text, plain: is_plain } = &node.value else { return Err(Wrong::other(shape, node)) };
    let typed = plain(text, *is_plain);
    let other = || Wrong::other(shape, node);
    let words = |error: String, hint: &str| Wrong::because(error, hint);
    Ok(match shape {
        Shape::Bool | Shape::External => match typed {
            Plain::Bool(value) => value.into(),
            Plain::Text => boolean(text).ok_or_else(other)?.into(),
            Plain::Int(_) | Plain::Float(_) | Plain::Time => return Err(other()),
        },
        Shape::Flag => match typed {
            Plain::Bool(value) => value.into(),
            _ => return Err(other()),
        },
        Shape::Whole => match typed {
            Plain::Int(_) | Plain::Float(_) => {
                integer(typed, text, true, i64::MIN, i64::MAX).ok_or_else(other)??.into()
            }
            _ => return Err(other()),
        },
        Shape::Int(min, max) => integer(typed, text, false, *min, *max).ok_or_else(other)??.into(),
        Shape::Number => integer(typed, text, true, i64::MIN, i64::MAX).ok_or_else(other)??.into(),
        Shape::Limit(_) => integer(typed, text, false, i64::MIN, i64::MAX).ok_or_else(other)??.into(),
        Shape::CpuTime => match integer(typed, text, true, i64::MIN, i64::MAX) {
            Some(value) => value?.into(),
            None => {
                let time = units::duration(text).map_err(|e| words(e, "for example 1400us or 1400"))?;
                i64::try_from(time.as_micros()).unwrap_or(i64::MAX).into()
            }
        },
        Shape::Float => match typed {
            Plain::Int(value) => number(value as f64),
            Plain::Float(value) => number(value),
            Plain::Text => number(text.trim().parse::<f64>().map_err(|_| other())?),
            Plain::Bool(_) | Plain::Time => return Err(other()),
        },
        Shape::Text | Shape::Command | Shape::Test | Shape::Short(..) => match typed {
            Plain::Text => text.clone().into(),
            _ => return Err(other()),
        },
        Shape::Form(form) => match typed {
            Plain::Text => self::form(*form, text)?.into(),
            _ => return Err(other()),
        },
        Shape::FormOrNumber(form) => match typed {
            Plain::Bool(_) | Plain::Time | Plain::Float(_) => return Err(other()),
            _ => self::form(*form, &scalar_text(node).ok_or_else(other)?)?.into(),
        },
        Shape::TextOrNumber => match typed {
            Plain::Bool(_) | Plain::Time | Plain::Float(_) => return Err(other()),
            _ => scalar_text(node).ok_or_else(other)?.into(),
        },
        Shape::TextOrBool => match typed {
            Plain::Text | Plain::Bool(_) => scalar_text(node).ok_or_else(other)?.into(),
            _ => return Err(other()),
        },
        Shape::Word(known) => match typed {
            Plain::Text => word(known, text)?.into(),
            _ => return Err(other()),
        },
        Shape::Duration => match typed {
            Plain::Text => {
                let time = units::duration(text).map_err(|e| words(e, "for example 10s, 1m30s or 500ms"))?;
                units::show_duration(time).into()
            }
            _ => return Err(Wrong { hint: Some("for example 10s, 1m30s or 500ms".into()), ..other() }),
        },
        Shape::Memory => match typed {
            Plain::Text => size(typed, text).ok_or_else(other)??.into(),
            _ => return Err(Wrong { hint: Some(format!("write it in quotes: \"{text}\"")), ..other() }),
        },
        Shape::Size => size(typed, text).ok_or_else(other)??.into(),
        Shape::Mode => mode(typed, text).ok_or_else(other)?.into(),
        Shape::Count => match (typed, text.to_ascii_lowercase().as_str()) {
            (_, "all") => (-1).into(),
            (typed, _) => integer(typed, text, false, i64::MIN, i64::MAX).ok_or_else(other)??.into(),
        },
        Shape::PairValue => scalar_text(node).ok_or_else(other)?.into(),
        Shape::Variables
        | Shape::Labels
        | Shape::Options
        | Shape::MultiOptions
        | Shape::Hosts
        | Shape::List(_)
        | Shape::Set(_)
        | Shape::OneOrList(_)
        | Shape::Map(_)
        | Shape::MapOrNull(_)
        | Shape::Dict(_)
        | Shape::Names(_)
        | Shape::Syntax(_)
        | Shape::Gpus(_)
        | Shape::Ssh => return Err(other()),
    })
}

/// The words of YAML 1.1 for true and false.
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "y" | "yes" | "on" => Some(true),
        "false" | "n" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn integer(typed: Plain, text: &str, cut: bool, min: i64, max: i64) -> Option<Result<i64, Wrong>> {
    let value = match typed {
        Plain::Int(value) => value,
        Plain::Float(value) if value.is_finite() && (cut || value.fract() == 0.0) => value as i128,
        Plain::Text => text.trim().parse::<i128>().ok()?,
        Plain::Float(_) | Plain::Bool(_) | Plain::Time => return None,
    };
    let fits = i64::try_from(value).ok().filter(|v| (min..=max).contains(v));
    Some(fits.ok_or_else(|| {
        let hint = match (min, max) {
            (i64::MIN, i64::MAX) => None,
            (min, i64::MAX) => Some(format!("it begins at {min}")),
            (min, max) => Some(format!("it lies between {min} and {max}")),
        };
        Wrong { message: format!("{value} is out of range"), hint }
    }))
}

/// A number as Compose keeps it, in single precision; whole ones without a fraction.
fn number(value: f64) -> Json {
    let single = value as f32;
    if single.fract() == 0.0 && single.abs() < 1e15 {
        return Json::from(single as i64);
    }
    single.to_string().parse::<f64>().map_or(Json::Null, Json::from)
}

fn size(typed: Plain, text: &str) -> Option<Result<String, Wrong>> {
    let whole = match typed {
        Plain::Int(value) => Some(value),
        Plain::Float(value) if value.is_finite() => Some(value as i128),
        Plain::Text => text.trim().parse::<i128>().ok(),
        Plain::Float(_) | Plain::Bool(_) | Plain::Time => return None,
    };
    if let Some(value) = whole {
        return Some(match i64::try_from(value) {
            Ok(value) => Ok(value.to_string()),
            Err(_) => Err(Wrong { message: format!("{text:?} is not a size: it is too large"), hint: None }),
        });
    }
    let hint = "for example 64m, 1.5gb or a number of bytes";
    Some(units::bytes(text).map(|b| b.0.to_string()).map_err(|e| Wrong::because(e, hint)))
}

fn mode(typed: Plain, text: &str) -> Option<String> {
    let value = match typed {
        Plain::Int(value) => i64::try_from(value).ok()?,
        Plain::Text => i64::from_str_radix(text, 8).ok()?,
        Plain::Float(_) | Plain::Bool(_) | Plain::Time => return None,
    };
    Some(format!("0{value:o}"))
}

fn word(known: &[&str], text: &str) -> Result<String, Wrong> {
    if known.contains(&text) {
        return Ok(text.to_owned());
    }
    let hint = match suggest::nearest(text, known.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("use one of: {}", known.join(", ")),
    };
    Err(Wrong { message: format!("{text:?} is not known here"), hint: Some(hint) })
}

fn form(form: Form, text: &str) -> Result<String, Wrong> {
    match form {
        Form::ContainerName => {
            let valid = text.len() > 1
                && text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
            let hint = "use at least two letters, digits, `_`, `.` or `-`, and begin with a letter or digit";
            if !valid {
                return Err(Wrong::because(format!("{text:?} is no name for a container"), hint));
            }
        }
        Form::PullPolicy => pull_policy(text)?,
        Form::Restart => restart(text)?,
        Form::Address => {
            if text.parse::<std::net::IpAddr>().is_err() {
                return Err(Wrong::because(
                    format!("{text:?} is no address of a host"),
                    "for example 127.0.0.1",
                ));
            }
        }
        Form::Published => {
            if !text.is_empty() && text != "0" {
                port_span(text).map_err(|e| Wrong::because(e, "for example 8080 or 8000-9000"))?;
            }
        }
    }
    Ok(text.to_owned())
}

fn pull_policy(text: &str) -> Result<(), Wrong> {
    const KNOWN: [&str; 8] =
        ["always", "never", "build", "if_not_present", "missing", "refresh", "daily", "weekly"];
    let every = text.strip_prefix("every_").is_some_and(|time| units::duration(time).is_ok());
    if every || KNOWN.contains(&text) {
        return Ok(());
    }
    let hint = match suggest::nearest(text, KNOWN) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("use one of: {}, or every_DURATION", KNOWN.join(", ")),
    };
    Err(Wrong { message: format!("{text:?} is no pull policy"), hint: Some(hint) })
}

fn restart(text: &str) -> Result<(), Wrong> {
    const KNOWN: [&str; 4] = ["no", "always", "on-failure", "unless-stopped"];
    if text.is_empty() {
        return Ok(());
    }
    let (word, count) = text.split_once(':').map_or((text, None), |(word, count)| (word, Some(count)));
    let counted = word == "on-failure" && count.is_some_and(|c| c.parse::<u32>().is_ok());
    if counted || (count.is_none() && KNOWN.contains(&word)) {
        return Ok(());
    }
    let hint = match suggest::nearest(word, KNOWN) {
        Some(meant) if meant != word => format!("did you mean `{meant}`?"),
        _ => "use no, always, unless-stopped, on-failure or on-failure:N".into(),
    };
    Err(Wrong { message: format!("{text:?} is no restart policy"), hint: Some(hint) })
}
