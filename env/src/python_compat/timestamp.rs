//! Points in time as pandas reads them from an argument.
//!
//! There is no clock: "now", "today" and a bare time of day refer to the simulated present.

use std::cmp::Ordering;

use jiff::civil::{Date, DateTime, Time, date};
use jiff::{SignedDuration, civil};

use super::timestamp_words::{Fields, read_words};
use super::{Exception, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timestamp {
    /// pandas' NaT: neither before, after nor equal to anything.
    Missing,
    Naive(DateTime),
    /// Local time and its distance to UTC in seconds.
    Aware(DateTime, i64),
}

const NOW: DateTime = civil::datetime(2023, 11, 30, 23, 59, 0, 0);
/// What a text leaves out comes from here, except for bare times, which are of the present day.
const DEFAULT_DATE: Date = date(1, 1, 1);
const MISSING_WORDS: [&str; 7] = ["", "NaT", "nat", "NAT", "nan", "NaN", "NAN"];
/// Single letters that are never read as dates.
const LONE_LETTERS: &str = "aAmMpPtT";
/// Numbers below this are not read as dates.
const SMALLEST_DATE_NUMBER: f64 = 1000.0;
const SECONDS_PER_DAY: i64 = 86_400;

impl Timestamp {
    pub(crate) fn from_value(value: &Value) -> Result<Self, Exception> {
        match value {
            Value::Str(text) => Self::from_text(text),
            Value::None => Ok(Self::Missing),
            Value::Float(number) if number.is_nan() => Ok(Self::Missing),
            // Numbers count nanoseconds since 1970.
            Value::Int(number) => i64::try_from(*number)
                .map_err(|_| Exception::value("Python int too large to convert to C long"))
                .and_then(Self::from_nanoseconds),
            Value::Float(number) => Self::from_nanoseconds(*number as i64),
            other => Err(Exception::other(format!(
                "Cannot convert input [{}] of type <class '{}'> to Timestamp",
                other.repr(),
                other.type_name()
            ))),
        }
    }

    fn from_nanoseconds(nanoseconds: i64) -> Result<Self, Exception> {
        date(1970, 1, 1)
            .to_datetime(Time::midnight())
            .checked_add(SignedDuration::from_nanos(nanoseconds))
            .map(Self::Naive)
            .map_err(|_| Exception::value("Out of bounds nanosecond timestamp"))
    }

    fn from_text(text: &str) -> Result<Self, Exception> {
        if let Some(plain) = plain_datetime(text) {
            return Ok(Self::Naive(plain));
        }
        if MISSING_WORDS.contains(&text) {
            return Ok(Self::Missing);
        }
        if matches!(text, "now" | "today") {
            return Ok(Self::Naive(NOW));
        }
        if !text.starts_with('0') {
            let is_letter = text.len() == 1 && LONE_LETTERS.contains(text);
            let is_small = text.trim().parse::<f64>().is_ok_and(|number| number < SMALLEST_DATE_NUMBER);
            if is_letter || is_small {
                return Err(Exception::value(format!("Given date string \"{text}\" not likely a datetime")));
            }
        }
        if let Some(quarter) = quarter(text) {
            return Ok(Self::Naive(quarter));
        }
        let fail = |reason: &str| Exception::value(format!("{reason}: {text}"));
        let fields = read_words(text).ok_or_else(|| fail("Unknown datetime string format, unable to parse"))?;
        if fields.is_empty() {
            return Err(fail("Unable to parse datetime string"));
        }
        if fields.has_weekday && fields.day.is_none() {
            return Err(Exception::value("Parsing datetimes with weekday but no day information is not supported"));
        }
        let local = local_time(&fields, looks_like_time(text)).map_err(|e| fail(&e))?;
        Ok(match fields.utc_offset_seconds {
            Some(offset) if offset.abs() >= SECONDS_PER_DAY => {
                return Err(fail("Parsed string gives an invalid tzoffset"));
            }
            Some(offset) => Self::Aware(local, offset),
            None => Self::Naive(local),
        })
    }

    pub(crate) fn is_missing(&self) -> bool {
        *self == Self::Missing
    }

    /// The calendar day, in local time.
    pub(crate) fn date(&self) -> Option<Date> {
        match self {
            Self::Missing => None,
            Self::Naive(time) | Self::Aware(time, _) => Some(time.date()),
        }
    }

    /// Order of two points in time; `None` if one of them is missing.
    ///
    /// # Errors
    /// One has a time zone and the other has none.
    pub(crate) fn compare(&self, other: &Self) -> Result<Option<Ordering>, Exception> {
        let utc = |time: &DateTime, offset: i64| time.saturating_sub(SignedDuration::from_secs(offset));
        match (self, other) {
            (Self::Missing, _) | (_, Self::Missing) => Ok(None),
            (Self::Naive(a), Self::Naive(b)) => Ok(Some(a.cmp(b))),
            (Self::Aware(a, a_offset), Self::Aware(b, b_offset)) => Ok(Some(utc(a, *a_offset).cmp(&utc(b, *b_offset)))),
            _ => Err(Exception::other("Cannot compare tz-naive and tz-aware timestamps")),
        }
    }
}

/// `YYYY-MM-DD` or `YYYY-MM-DD HH:MM:SS`, the forms that nearly all cells and arguments have.
fn plain_datetime(text: &str) -> Option<DateTime> {
    let bytes = text.as_bytes();
    let number = |start: usize, end: usize| -> Option<i16> {
        let digits = bytes.get(start..end)?;
        digits.iter().all(u8::is_ascii_digit).then_some(())?;
        text.get(start..end)?.parse().ok()
    };
    let separator = |at: usize, c: u8| (bytes.get(at) == Some(&c)).then_some(());
    let small = |start: usize| number(start, start + 2).and_then(|n| i8::try_from(n).ok());
    separator(4, b'-')?;
    separator(7, b'-')?;
    let day = Date::new(number(0, 4)?, small(5)?, small(8)?).ok()?;
    let time = match bytes.len() {
        10 => Time::midnight(),
        19 => {
            separator(10, b' ')?;
            separator(13, b':')?;
            separator(16, b':')?;
            Time::new(small(11)?, small(14)?, small(17)?, 0).ok()?
        }
        _ => return None,
    };
    // Second 60 and year 0 take the long way, where they are refused.
    (day.year() > 0).then(|| day.to_datetime(time))
}

/// `2023Q4`, `2023-Q4`, `4Q2023`: the first day of the quarter.
fn quarter(text: &str) -> Option<DateTime> {
    let (before, after) = text.split_once(['Q', 'q'])?;
    let before = before.strip_suffix('-').unwrap_or(before);
    let is_number = |part: &str, len| part.len() == len && part.bytes().all(|b| b.is_ascii_digit());
    let (year, quarter) = if is_number(before, 4) && is_number(after, 1) {
        (before, after)
    } else if is_number(before, 1) && is_number(after, 4) {
        (after, before)
    } else {
        return None;
    };
    let quarter: i8 = quarter.parse().ok().filter(|q| (1..=4).contains(q))?;
    let first = Date::new(year.parse().ok()?, quarter * 3 - 2, 1).ok()?;
    (first.year() > 0).then(|| first.to_datetime(Time::midnight()))
}

/// Whether the text starts like `9:00` or `09:00`.
fn looks_like_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let colon = if is_digit(1) { 2 } else { 1 };
    is_digit(0) && bytes.get(colon) == Some(&b':') && is_digit(colon + 1) && is_digit(colon + 2)
}

/// Puts the fields together; the error is Python's.
fn local_time(fields: &Fields, is_bare_time: bool) -> Result<DateTime, String> {
    let default = if is_bare_time { NOW.date() } else { DEFAULT_DATE };
    let year = fields.year.unwrap_or(i64::from(default.year()));
    let month = fields.month.unwrap_or(i64::from(default.month()));
    let day = fields.day.unwrap_or(i64::from(default.day()));
    let year = i16::try_from(year)
        .ok()
        .filter(|year| (1..=9999).contains(year))
        .ok_or_else(|| format!("year {year} is out of range"))?;
    let within = |value: i64, end: i64| i8::try_from(value).ok().filter(|_| value < end);
    let month = within(month, 13).filter(|&month| month > 0).ok_or("month must be in 1..12")?;
    let day =
        within(day, 32).and_then(|day| Date::new(year, month, day).ok()).ok_or("day is out of range for month")?;
    let hour = within(fields.hour.unwrap_or(0), 24).ok_or("hour must be in 0..23")?;
    let minute = within(fields.minute.unwrap_or(0), 60).ok_or("minute must be in 0..59")?;
    let second = within(fields.second.unwrap_or(0), 60).ok_or("second must be in 0..59")?;
    Time::new(hour, minute, second, fields.nanosecond)
        .map(|time| day.to_datetime(time))
        .map_err(|_| "second must be in 0..59".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match Timestamp::from_text(text) {
            Ok(Timestamp::Missing) => "NaT".into(),
            Ok(Timestamp::Naive(time)) => time.to_string(),
            Ok(Timestamp::Aware(time, offset)) => format!("{time}{offset:+}"),
            Err(exception) => exception.text,
        }
    }

    #[test]
    fn accepts_what_pandas_accepts() {
        for (text, expected) in [
            ("2023-11-30 23:59:00", "2023-11-30T23:59:00"),
            ("2023-12", "2023-12-01T00:00:00"),
            ("2023", "2023-01-01T00:00:00"),
            ("20231201", "2023-12-01T00:00:00"),
            ("20231201T090000", "2023-12-01T09:00:00"),
            ("202312010900", "2023-12-01T09:00:00"),
            ("2023/12/01 9:5", "2023-12-01T09:05:00"),
            ("2023.12.01", "2023-12-01T00:00:00"),
            ("12.01.2023", "2023-12-01T00:00:00"),
            ("2023-12-01t09:00:00", "2023-12-01T09:00:00"),
            ("2023-12-01 09:00:00.5", "2023-12-01T09:00:00.5"),
            ("2023-12-01T09:00:00Z", "2023-12-01T09:00:00+0"),
            ("2023-12-01 09:00:00+02:00", "2023-12-01T09:00:00+7200"),
            ("2023-12-01 09:00:00 -0230", "2023-12-01T09:00:00-9000"),
            ("2023-12-01 09:00:00 EST", "2023-12-01T09:00:00"),
            ("2023-12-01 10", "2023-12-01T10:00:00"),
            ("Dec 1 2023 9am", "2023-12-01T09:00:00"),
            ("1st December, 2023", "2023-12-01T00:00:00"),
            ("Friday, December 1, 2023", "2023-12-01T00:00:00"),
            ("01Dec2023", "2023-12-01T00:00:00"),
            ("2023-Dec-01", "2023-12-01T00:00:00"),
            ("15 2023 January", "2023-01-15T00:00:00"),
            ("12/01/2023", "2023-12-01T00:00:00"),
            ("30/11/2023", "2023-11-30T00:00:00"),
            ("1/2/23", "2023-01-02T00:00:00"),
            ("231201", "2001-12-23T00:00:00"),
            ("11/30/2023 11:59 PM", "2023-11-30T23:59:00"),
            ("2023-12-01 12:00 AM", "2023-12-01T00:00:00"),
            ("2023-12-01 9h30m", "2023-12-01T09:30:00"),
            ("2023Q4", "2023-10-01T00:00:00"),
            ("4Q2023", "2023-10-01T00:00:00"),
            ("NaT", "NaT"),
            ("09:00", "2023-11-30T09:00:00"),
            ("9am", "0001-01-01T09:00:00"),
            ("09", "0001-01-09T00:00:00"),
            ("1000", "1000-01-01T00:00:00"),
            (" 2023-12-01 ", "2023-12-01T00:00:00"),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }

    #[test]
    fn refuses_what_pandas_refuses() {
        for (text, expected) in [
            ("1", "Given date string \"1\" not likely a datetime"),
            ("2.5", "Given date string \"2.5\" not likely a datetime"),
            ("a", "Given date string \"a\" not likely a datetime"),
            ("0", "day is out of range for month: 0"),
            ("2023-02-30", "day is out of range for month: 2023-02-30"),
            ("2023-13-01", "month must be in 1..12: 2023-13-01"),
            ("202312", "month must be in 1..12: 202312"),
            ("99999-01-01", "year 99999 is out of range: 99999-01-01"),
            ("2023-12-01 25:00:00", "hour must be in 0..23: 2023-12-01 25:00:00"),
            ("24:00", "hour must be in 0..23: 24:00"),
            ("\0", "Unable to parse datetime string: \0"),
            ("Friday", "Unable to parse datetime string: Friday"),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
        for text in [
            "garbage",
            "tomorrow",
            "2023-W48",
            "2023-12-01 9",
            "2023-12-01 13:00 PM",
            "2023-12-01 09:00 - 10:00",
            "2023-12-01 to 2023-12-02",
            "next week",
            "Reunion",
            "\\d+",
            "Q4 2023",
            "noon",
            "1e5",
        ] {
            let expected = format!("Unknown datetime string format, unable to parse: {text}");
            assert_eq!(read(text), expected);
        }
    }

    #[test]
    fn order() {
        let read = |text| Timestamp::from_text(text);
        let compare = |a, b| read(a).and_then(|a| read(b).and_then(|b| a.compare(&b)));
        assert_eq!(compare("2023-12-01", "2023-12-01 00:00:01"), Ok(Some(Ordering::Less)));
        assert_eq!(compare("2023-12-01T09:00Z", "2023-12-01T10:00+01:00"), Ok(Some(Ordering::Equal)));
        assert_eq!(compare("NaT", "2023-12-01"), Ok(None));
        assert!(compare("2023-12-01T09:00Z", "2023-12-01").is_err());
    }
}
