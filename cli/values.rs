//! Values on the command line: what is asked for, in plain words, where something else is found.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use nemo_env::generate::{MAX_DIFFICULTY, MAX_OFFICES, MAX_TASKS};
use nemo_env_server::ServerConfig;

fn within<T: FromStr + PartialOrd + Display>(text: &str, range: RangeInclusive<T>) -> Result<T, String> {
    let expected = || format!("expected a whole number from {} to {}", range.start(), range.end());
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(expected)
}

/// A seed, the id of a record, seconds.
pub fn number(text: &str) -> Result<u64, String> {
    within(text, 0..=u64::MAX)
}

pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

pub fn zero_or_more(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "expected a whole number of at least 0".to_owned())
}

/// A size of memory in bytes: a number and, with or without a space, one of the usual units.
pub fn memory_size(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    let expected = || "expected a size of memory such as 80GiB, 80GB or 512MiB".to_owned();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, bytes)| Some((text.strip_suffix(name)?.trim_end(), *bytes)))
        .ok_or_else(expected)?;
    let bytes = number.parse::<f64>().map_err(|_| expected())? * unit as f64;
    if bytes.is_finite() && (1.0..1e18).contains(&bytes) { Ok(bytes as usize) } else { Err(expected()) }
}

pub fn num_tasks(text: &str) -> Result<usize, String> {
    within(text, 1..=MAX_TASKS)
}

pub fn num_offices(text: &str) -> Result<usize, String> {
    within(text, 1..=MAX_OFFICES)
}

pub fn difficulty(text: &str) -> Result<u8, String> {
    within(text, 1..=MAX_DIFFICULTY)
}

pub fn num_threads(text: &str) -> Result<usize, String> {
    within(text, 1..=ServerConfig::MAX_THREADS)
}

pub fn port(text: &str) -> Result<u16, String> {
    within(text, 0..=u16::MAX)
}

pub fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        "expected an IP address: 127.0.0.1 for this machine alone, 0.0.0.0 for every address it has".to_owned()
    })
}

pub fn non_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        _ => Err("expected a number of at least 0".to_owned()),
    }
}

pub fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

pub fn probability(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 1.0 => Ok(number),
        _ => Err("expected a number above 0 and at most 1".to_owned()),
    }
}
