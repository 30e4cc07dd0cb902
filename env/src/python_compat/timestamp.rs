//! Points in time as pandas reads them from an argument.
//!
//! There is no clock: "now", "today" and a bare time of day refer to the simulated present.

use std::cmp::Ordering;
use std::ops::RangeInclusive;

use jiff::civil::{Date, DateTime, Time, date};
use jiff::{SignedDuration, civil};

use super::integer::Integer;
use super::timestamp_iso::{Iso, read_iso};
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
/// What 64 bits of nanoseconds around 1970 hold.
const NANOSECONDS: RangeInclusive<DateTime> =
    civil::datetime(1677, 9, 21, 0, 12, 43, 145_224_193)..=civil::datetime(2262, 4, 11, 23, 47, 16, 854_775_807);
const SECONDS_PER_DAY: i64 = 86_400;

impl Timestamp {
    pub(crate) fn from_value(value: &Value) -> Result<Self, Exception> {
        match value {
            Value::Str(text) => Self::from_text(text),
            Value::None => Ok(Self::Missing),
            Value::Float(number) if number.is_nan() => Ok(Self::Missing),
            // Numbers count nanoseconds since 1970.
            Value::Int(number) => {
                let outside = |_| Exception::value(format!("Out of bounds nanosecond timestamp {number}"));
                Self::from_nanoseconds(i64::try_from(*number).map_err(outside)?)
            }
            // The upper end, 2^63, is the first float that 64 bits do not hold.
            Value::Float(number) if (i64::MIN as f64..-(i64::MIN as f64)).contains(number) => {
                Self::from_nanoseconds(*number as i64)
            }
            Value::Float(_) => {
                Err(Exception::value(format!("cannot convert input {} with the unit 'None'", value.repr())))
            }
            other => Err(Exception::other(format!(
                "Cannot convert input [{}] of type <class '{}'> to Timestamp",
                other.repr(),
                other.type_name()
            ))),
        }
    }

    fn from_nanoseconds(nanoseconds: i64) -> Result<Self, Exception> {
        // pandas keeps NaT as the smallest integer.
        if nanoseconds == i64::MIN {
            return Ok(Self::Missing);
        }
        date(1970, 1, 1)
            .to_datetime(Time::midnight())
            .checked_add(SignedDuration::from_nanos(nanoseconds))
            .map(Self::Naive)
            .map_err(|_| Exception::value("Out of bounds nanosecond timestamp"))
    }

    fn from_text(text: &str) -> Result<Self, Exception> {
        if MISSING_WORDS.contains(&text) {
            return Ok(Self::Missing);
        }
        if matches!(text, "now" | "today") {
            return Ok(Self::Naive(NOW));
        }
        if let Some(Iso { local, utc_offset_seconds, has_nanoseconds }) = read_iso(text) {
            if has_nanoseconds && !NANOSECONDS.contains(&local) {
                let local = local.strftime("%-Y-%m-%d %H:%M:%S");
                return Err(Exception::value(format!("Out of bounds nanosecond timestamp: {local}")));
            }
            return Ok(utc_offset_seconds.map_or(Self::Naive(local), |offset| Self::Aware(local, offset)));
        }
        if !text.starts_with('0') {
            let is_letter = text.len() == 1 && LONE_LETTERS.contains(text);
            if is_letter || float(text).is_some_and(|number| number < SMALLEST_DATE_NUMBER) {
                return Err(Exception::value(format!("Given date string \"{text}\" not likely a datetime")));
            }
        }
        let is_bare_time = looks_like_time(text);
        if !is_bare_time {
            if let Some(date) = delimited_date(text)? {
                return Ok(Self::Naive(date));
            }
            if let Some(quarter) = quarter(text)? {
                return Ok(Self::Naive(quarter));
            }
        }
        let fail = |reason: &str| Exception::value(format!("{reason}: {text}"));
        let fields = read_words(text).ok_or_else(|| fail("Unknown datetime string format, unable to parse"))?;
        if fields.numbers().next().is_none() {
            return Err(fail("Unable to parse datetime string"));
        }
        if fields.numbers().any(|number| i32::try_from(number).is_err()) {
            return Err(Exception::value(format!("Parsing \"{text}\" to datetime overflows")));
        }
        let local = local_time(&fields, is_bare_time).map_err(|e| fail(&e))?;
        if fields.has_weekday && fields.day.is_none() {
            return Err(Exception::value("Parsing datetimes with weekday but no day information is not supported"));
        }
        Ok(match fields.utc_offset_seconds {
            Some(offset) if offset.abs() >= SECONDS_PER_DAY => {
                return Err(Exception::value(format!(
                    "Parsed string \"{text}\" gives an invalid tzoffset, which must be between \
                     -timedelta(hours=24) and timedelta(hours=24)"
                )));
            }
            Some(offset) => Self::Aware(local, offset),
            None => Self::Naive(local),
        })
    }

    pub(crate) fn is_missing(&self) -> bool {
        *self == Self::Missing
    }

    /// The calendar day, in local time; `None` if it is missing.
    ///
    /// # Errors
    /// The year is not one of Python's.
    pub(crate) fn date(&self) -> Result<Option<Date>, Exception> {
        match self {
            Self::Missing => Ok(None),
            Self::Naive(time) | Self::Aware(time, _) if time.year() > 0 => Ok(Some(time.date())),
            _ => Err(Exception::other(
                "date not yet supported on Timestamps which are outside the range of Python's standard library. ",
            )),
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

/// The whole text as a plain number, white space around it allowed.
fn float(text: &str) -> Option<f64> {
    let text = text.trim_matches(|c| matches!(c, ' ' | '\t'..='\r'));
    // Rust also reads words such as "inf".
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.parse().ok().filter(|_| is_plain)
}

/// `MM/DD/YYYY` and `MM/YYYY`, with other separators and with fewer digits too; the day comes first where the month
/// cannot.
fn delimited_date(text: &str) -> Result<Option<DateTime>, Exception> {
    let parts: Vec<&str> = text.split([' ', '-', '.', '/']).collect();
    let number = |part: &str| -> Option<i16> {
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten()
    };
    let ((month, day), year, has_day) = match parts[..] {
        [month, day, year] if matches!((month.len(), day.len(), year.len()), (1..=2, 1..=2, 4)) => {
            ((number(month), number(day)), number(year), true)
        }
        // `10.2010` could be a number.
        [month, year] if (month.len(), year.len()) == (2, 4) && !text.contains('.') => {
            ((number(month), Some(1)), number(year), false)
        }
        _ => return Ok(None),
    };
    let (Some(mut month), Some(mut day), Some(year @ 1000..)) = (month, day, year) else {
        return Ok(None);
    };
    if !(1..=31).contains(&month) || !(1..=31).contains(&day) || month > 12 && day > 12 {
        return Err(Exception::value(format!("Invalid date specified ({month}/{day})")));
    }
    if month > 12 && has_day {
        std::mem::swap(&mut month, &mut day);
    }
    let fields =
        Fields { year: Some(year.into()), month: Some(month.into()), day: Some(day.into()), ..Fields::default() };
    local_time(&fields, false).map(Some).map_err(Exception::value)
}

/// `2023Q4`, `23-Q4`, `4Q2023`, `4Q-23`: the first day of the quarter. Years are read as Python's `int` reads them, signs
/// and blanks included.
fn quarter(text: &str) -> Result<Option<DateTime>, Exception> {
    let text = text.to_ascii_uppercase();
    let q_at = text.bytes().skip(1).take(5).position(|byte| byte == b'Q').map(|at| at + 1);
    let (Some(q_at), true) = (q_at, text.is_ascii()) else {
        return Ok(None);
    };
    let length = text.len();
    let has_dash = text.as_bytes().get(if q_at == 1 { 2 } else { q_at - 1 }) == Some(&b'-');
    let year_length = match (q_at, length) {
        (1..=3, 4) => 2,
        (1..=3, 5) if has_dash => 2,
        (1 | 4 | 5, 6) => 4,
        (1 | 4 | 5, 7) if has_dash => 4,
        _ => return Ok(None),
    };
    let (year, quarter) = match q_at {
        1 => (&text[length - year_length..], text.as_bytes()[0]),
        _ => (&text[..year_length], text.as_bytes()[length - 1]),
    };
    let Some(number) = Integer::from_text(year).ok().and_then(|year| year.to_string().parse::<i16>().ok()) else {
        return Ok(None);
    };
    let year = if year.len() == 2 { 2000 + number } else { number };
    let Some(quarter) = quarter.checked_sub(b'1').filter(|quarter| *quarter < 4) else {
        let message = "Incorrect quarterly string is given, quarter must be between 1 and 4";
        return Err(Exception::value(format!("{message}: {text}")));
    };
    let month = i8::try_from(quarter * 3 + 1).unwrap_or(1);
    let first = Date::new(year, month, 1).ok().filter(|_| year > 0);
    Ok(first.map(|first| first.to_datetime(Time::midnight())))
}

/// Whether the text starts with a time of day such as `9:00` or `09:00`.
fn looks_like_time(text: &str) -> bool {
    let is_time = |hour: &str, rest: &str| {
        let is_hour = hour.len() == 1 || ("00".."24").contains(&hour);
        let minute = rest.get(..2).unwrap_or_default();
        is_hour
            && hour.bytes().chain(minute.bytes()).all(|byte| byte.is_ascii_digit())
            && minute.len() == 2
            && minute < "60"
    };
    text.split_once(':').is_some_and(|(hour, rest)| matches!(hour.len(), 1 | 2) && is_time(hour, rest))
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
        shown(Timestamp::from_text(text))
    }

    fn shown(timestamp: Result<Timestamp, Exception>) -> String {
        match timestamp {
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
            ("Oct 15,2023", "0001-10-15T00:00:00"),
            ("Oct 15, 2023", "2023-10-15T00:00:00"),
            ("10,15,2023", "2023-10-01T00:00:00"),
            ("2023.5", "2023-05-01T00:00:00"),
            ("30,11", "0001-01-30T00:00:00"),
            ("-2023", "-002023-01-01T00:00:00"),
            ("/3", "0000-03-01T00:00:00"),
            ("4.2001.Nov", "2001-11-04T00:00:00"),
            ("Dec of 23", "2023-12-01T00:00:00"),
            ("2023-12-01 9.5h", "2023-12-01T09:30:00"),
            ("2023-12-01 9h 15", "2023-12-01T09:15:00"),
            ("2023-12-01 9:30.25", "2023-12-01T09:30:15"),
            ("2023-12-01 09:00 GMT+3", "2023-12-01T09:00:00-10800"),
            ("2023-12-01 09:00 -0300 (BRST)", "2023-12-01T09:00:00-10800"),
            ("2023-12-01 09:00:00.123456789", "2023-12-01T09:00:00.123456789"),
            ("Dec 1 2023 09:00:00.123456789", "2023-12-01T09:00:00.123456"),
            ("٣/١/2023", "2023-03-01T00:00:00"),
            ("12-2023", "2023-12-01T00:00:00"),
            ("14Q1", "2014-01-01T00:00:00"),
            ("23-Q3", "2023-07-01T00:00:00"),
            ("4Q-23", "2023-10-01T00:00:00"),
            ("1Q+123", "0123-01-01T00:00:00"),
            ("9:69 1:10", "0001-01-01T01:10:00"),
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
            ("-1", "Given date string \"-1\" not likely a datetime"),
            ("13/13/2023", "Invalid date specified (13/13)"),
            ("02/30/2023", "day is out of range for month"),
            ("2023Q5", "Incorrect quarterly string is given, quarter must be between 1 and 4: 2023Q5"),
            ("24/q", "Incorrect quarterly string is given, quarter must be between 1 and 4: 24/Q"),
            ("99999999999-01", "Parsing \"99999999999-01\" to datetime overflows"),
            ("2300-01-01 00:00:00.1234567", "Out of bounds nanosecond timestamp: 2300-01-01 00:00:00"),
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
            "-inf",
            "+2023",
            "2023-340",
            "22672-340",
            "2023,5",
            "²",
            "½",
        ] {
            let expected = format!("Unknown datetime string format, unable to parse: {text}");
            assert_eq!(read(text), expected);
        }
    }

    #[test]
    fn numbers_count_nanoseconds_and_end_where_64_bits_end() {
        for (number, expected) in [
            (Value::Int(1), "1970-01-01T00:00:00.000000001"),
            (Value::Int(i64::MAX.into()), "2262-04-11T23:47:16.854775807"),
            (Value::Int(i128::from(i64::MAX) + 1), "Out of bounds nanosecond timestamp 9223372036854775808"),
            (Value::Int(u64::MAX.into()), "Out of bounds nanosecond timestamp 18446744073709551615"),
            (Value::Int(i128::from(i64::MIN) + 1), "1677-09-21T00:12:43.145224193"),
            (Value::Int(i64::MIN.into()), "NaT"),
            (Value::Int(i128::from(i64::MIN) - 1), "Out of bounds nanosecond timestamp -9223372036854775809"),
            (Value::Float(1.5), "1970-01-01T00:00:00.000000001"),
            (Value::Float(-0.5), "1970-01-01T00:00:00"),
            (Value::Float(9.223_372_036_854_775e18), "2262-04-11T23:47:16.854774784"),
            (Value::Float(9.223_372_036_854_776e18), "cannot convert input 9.223372036854776e+18 with the unit 'None'"),
            (Value::Float(-9.223_372_036_854_775e18), "1677-09-21T00:12:43.145225216"),
            (Value::Float(-9.223_372_036_854_776e18), "NaT"),
            (Value::Float(-9.3e18), "cannot convert input -9.3e+18 with the unit 'None'"),
            (Value::Float(1e19), "cannot convert input 1e+19 with the unit 'None'"),
            (Value::Float(f64::INFINITY), "cannot convert input inf with the unit 'None'"),
            (Value::Float(f64::NEG_INFINITY), "cannot convert input -inf with the unit 'None'"),
            (Value::Float(f64::NAN), "NaT"),
        ] {
            assert_eq!(shown(Timestamp::from_value(&number)), expected, "{number:?}");
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
