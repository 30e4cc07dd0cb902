//! Python's text of a float: shortest digits that read back the same, `.0` on whole numbers,
//! exponents of at least two digits.

/// Where two texts of the same length are equally near, Python takes the even digit; the standard library does not.
pub(crate) fn float_repr(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.into();
    }
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(number);
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

#[cfg(test)]
mod tests {
    use super::float_repr;

    #[test]
    #[allow(clippy::excessive_precision, reason = "the last digits of ties are the point")]
    fn follows_python() {
        for (number, expected) in [
            (20.0, "20.0"),
            (17.357142857142858, "17.357142857142858"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (9999999999999998.0, "9999999999999998.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-0.000012345, "-1.2345e-05"),
            (1e-7, "1e-07"),
            (1e100, "1e+100"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            // Ties: the even digit.
            (1000000000000000.25, "1000000000000000.2"),
            (1000000000000000.75, "1000000000000000.8"),
            (2.98023223876953125e-08, "2.9802322387695312e-08"),
            (-2.5, "-2.5"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float_repr(number), expected);
        }
    }
}
