//! What a plain scalar is: Compose files are read by Go's yaml.v3, whose rules (YAML 1.2 with a few of 1.1) decide.

/// The type of a plain scalar that is not null.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Plain {
    Bool(bool),
    Int(i128),
    Float(f64),
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
    let digits = text.replace('_', "");
    if let Some(value) = integer(&digits) {
        return Plain::Int(value);
    }
    let float = digits.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
        && digits.bytes().any(|b| b.is_ascii_digit());
    match digits.parse::<f64>() {
        Ok(value) if float => Plain::Float(value),
        Ok(_) | Err(_) => Plain::Text,
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
    value.and_then(|v| v.checked_mul(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_what_compose_takes_them_for() {
        let cases: [(&str, Plain); 16] = [
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
        ];
        for (text, expected) in cases {
            assert_eq!(plain(text, true), expected, "{text}");
        }
        assert_eq!(plain("true", false), Plain::Text);
    }
}
