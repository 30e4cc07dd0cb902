//! Texts of floating-point numbers.

/// `repr` of a float: shortest digits that read back, exponent form below 1e-4 and from 1e16 on.
///
/// Where two texts of the same length are equally near, Python takes the even digit; the standard library does not.
pub(super) fn float_repr(value: f64) -> String {
    if !value.is_finite() {
        return special(value).to_owned();
    }
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value);
    // Only small numbers look otherwise: `0.000012` and `1e-7` are `1.2e-05` and `1e-07` in Python.
    match (text.split_once("0.0000"), text.split_once("e-")) {
        (Some((sign @ ("" | "-"), digits)), _) => match digits.split_at(1) {
            (first, "") => format!("{sign}{first}e-05"),
            (first, rest) => format!("{sign}{first}.{rest}e-05"),
        },
        (_, Some((digits, exponent))) => format!("{digits}e-{exponent:0>2}"),
        _ => text.to_owned(),
    }
}

/// `nan`, `inf` or `-inf`.
pub(super) fn special(value: f64) -> &'static str {
    match value {
        _ if value.is_nan() => "nan",
        _ if value > 0.0 => "inf",
        _ => "-inf",
    }
}

/// Rust writes `1e-7` where C and Python write `1e-07`.
fn python_exponent(text: &str) -> String {
    let Some((digits, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// Conversions `e`, `f` and `g` of C and Python for a finite number; `alternate` keeps point and zeros.
pub(super) fn convert(value: f64, conversion: char, precision: usize, alternate: bool) -> String {
    match conversion {
        'f' => with_point(format!("{value:.precision$}"), alternate),
        'e' => {
            let text = format!("{value:.precision$e}");
            match text.split_once('e') {
                Some((digits, exponent)) => {
                    python_exponent(&format!("{}e{exponent}", with_point(digits.to_owned(), alternate)))
                }
                None => text,
            }
        }
        _ => general(value, precision.max(1), alternate),
    }
}

/// `g`: the exponent form where the exponent is below -4 or no less than the precision, without zeros at the end.
fn general(value: f64, precision: usize, alternate: bool) -> String {
    let scientific = format!("{value:.*e}", precision - 1);
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i64 = exponent.parse().unwrap_or_default();
    let trim = |text: &str| match text.contains('.') && !alternate {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= precision as i64 {
        return python_exponent(&format!("{}e{exponent}", with_point(trim(digits), alternate)));
    }
    let decimals = (precision as i64 - 1 - exponent) as usize;
    with_point(trim(&format!("{value:.decimals$}")), alternate)
}

fn with_point(text: String, alternate: bool) -> String {
    if alternate && !text.contains('.') { text + "." } else { text }
}
