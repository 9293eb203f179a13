//! What a plain scalar is: Compose files are read by Go's yaml.v3, whose rules (YAML 1.2 with a few of 1.1) decide.

/// The type of a plain scalar that is not null.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Plain {
    Bool(bool),
    Int(i128),
    Float(f64),
    /// A date, or a date and a time of day.
    Time,
    Text,
}

/// The type of a scalar; quoted ones are text.
pub(crate) fn plain(text: &str, is_plain: bool) -> Plain {
    if !is_plain {
        return Plain::Text;
    }
    match text {
        "true" | "True" | "TRUE" => return Plain::Bool(true),
        "false" | "False" | "FALSE" => return Plain::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" => return Plain::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Plain::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Plain::Float(f64::NAN),
        _ => {}
    }
    if !text.bytes().next().is_some_and(|b| b.is_ascii_digit() || b"+-.".contains(&b)) {
        return Plain::Text;
    }
    if is_time(text) {
        return Plain::Time;
    }
    let digits = text.replace('_', "");
    if let Some(value) = integer(&digits) {
        return Plain::Int(value);
    }
    let float = digits.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
        && digits.bytes().any(|b| b.is_ascii_digit());
    match digits.parse::<f64>() {
        Ok(value) if float && value.is_finite() => Plain::Float(value),
        Ok(_) | Err(_) => Plain::Text,
    }
}

/// `2001-12-14`, or that and a time: `2001-12-14t21:59:43.10-05:00`, `2001-12-14 21:59:43`.
fn is_time(text: &str) -> bool {
    let number = |part: &str, least: usize, most: usize| {
        (least..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit())
    };
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, Some((time, text.contains(' ')))),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let [year, month, day] = [(); 3].map(|()| parts.next().unwrap_or_default());
    if parts.next().is_some() || !number(year, 4, 4) || !number(month, 1, 2) || !number(day, 1, 2) {
        return false;
    }
    let [year, month, day] = [year, month, day].map(|part| part.parse::<u16>().unwrap_or_default());
    if !(1..=12).contains(&month) || !(1..=days(year, month)).contains(&day) {
        return false;
    }
    let Some((time, blank)) = time else { return true };
    let mut parts = time.splitn(3, ':');
    let [hour, minute, rest] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let zone = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (second, zone) = rest.split_at(zone);
    let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
    let zoned = zone == "Z"
        || zone
            .get(1..)
            .and_then(|z| z.split_once(':'))
            .is_some_and(|(h, m)| number(h, 2, 2) && number(m, 2, 2));
    let clock = number(hour, 1, 2) && number(minute, 1, 2) && number(second, 1, 2) && number(fraction, 1, 9);
    clock && if blank { zone.is_empty() } else { zoned }
}

/// Days of a month.
fn days(year: u16, month: u16) -> u16 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u16::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Null is written in these ways.
pub(crate) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Decimal, `0x`, `0o`, `0b`, and octal with a leading zero.
fn integer(text: &str) -> Option<i128> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let parse = |digits: &str, radix| {
        let valid = digits.bytes().next().is_some_and(|b| b.is_ascii_hexdigit());
        if valid { i128::from_str_radix(digits, radix).ok() } else { None }
    };
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        parse(hex, 16)
    } else if let Some(octal) = digits.strip_prefix("0o") {
        parse(octal, 8)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        parse(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        parse(&digits[1..], 8)
    } else {
        parse(digits, 10)
    };
    // What no 64 bits hold is a number with a fraction, or text.
    value.and_then(|v| v.checked_mul(sign)).filter(|v| (i64::MIN.into()..=u64::MAX.into()).contains(v))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_what_compose_takes_them_for() {
        let cases: [(&str, Plain); 28] = [
            ("true", Plain::Bool(true)),
            ("yes", Plain::Text),
            ("on", Plain::Text),
            ("12", Plain::Int(12)),
            ("-1", Plain::Int(-1)),
            ("0777", Plain::Int(511)),
            ("0o777", Plain::Int(511)),
            ("0x10", Plain::Int(16)),
            ("8_000", Plain::Int(8000)),
            ("1.10", Plain::Float(1.1)),
            ("1e3", Plain::Float(1000.0)),
            ("08", Plain::Float(8.0)),
            ("1.2.3", Plain::Text),
            ("10s", Plain::Text),
            ("-", Plain::Text),
            ("127.0.0.1:80:80", Plain::Text),
            ("2001-12-14", Plain::Time),
            ("2001-1-4", Plain::Time),
            ("2001-12-14t21:59:43.10-05:00", Plain::Time),
            ("2001-12-14T21:59:43Z", Plain::Time),
            ("2001-12-14 21:59:43", Plain::Time),
            ("2001-12-14T21:59:43", Plain::Text),
            ("2001-12-14-alpine", Plain::Text),
            ("2001-12", Plain::Text),
            ("2001-02-29", Plain::Text),
            ("2000-02-29", Plain::Time),
            ("1e400", Plain::Text),
            ("18446744073709551616", Plain::Float(18_446_744_073_709_551_616.0)),
        ];
        for (text, expected) in cases {
            assert_eq!(plain(text, true), expected, "{text}");
        }
        assert_eq!(plain("true", false), Plain::Text);
    }
}
