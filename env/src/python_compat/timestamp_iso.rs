//! ISO 8601 as pandas' fast reader takes it, which is tried before all other forms: `2023-12`, `20231201T0900`,
//! `2023/12/1 9:05:00.123456789+01:00`. It alone knows years before the first and nanoseconds.

use jiff::civil::{Date, DateTime, Time};

/// Separators between year, month and day.
const DATE_SEPARATORS: &[u8] = b"-./\\ ";

/// A point in time as written.
pub(super) struct Iso {
    pub(super) local: DateTime,
    /// Distance to UTC, if the text gives one.
    pub(super) utc_offset_seconds: Option<i64>,
    /// Whether seconds have more than six digits after the point.
    pub(super) has_nanoseconds: bool,
}

/// Reads a text; `None` if it has another form.
pub(super) fn read_iso(text: &str) -> Option<Iso> {
    let mut reader = Reader { rest: text.trim_start_matches(is_space).as_bytes(), has_nanoseconds: false };
    let at = |local| Some(Iso { local, utc_offset_seconds: None, has_nanoseconds: false });
    let is_negative = reader.take(b'-');
    // A year left out is year 0.
    let has_year = reader.num_digits() >= 4;
    let year = if has_year { reader.digits(4, 4)? } else { 0 };
    let year = i16::try_from(if is_negative { -year } else { year }).ok()?;
    let midnight = |month: i64, day: i64| {
        let date = Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
        Some(date.to_datetime(Time::midnight()))
    };
    if reader.rest.is_empty() {
        return at(midnight(1, 1).filter(|_| has_year)?);
    }
    let separator = reader.rest.first().copied().filter(|byte| DATE_SEPARATORS.contains(byte));
    reader.rest = &reader.rest[usize::from(separator.is_some())..];
    // With separators one digit will do.
    let min_digits = if separator.is_some() { 1 } else { 2 };
    let month = reader.digits(min_digits, 2)?;
    if reader.rest.is_empty() {
        // Six digits are left to the other reader.
        separator?;
        return at(midnight(month, 1)?);
    }
    if separator.is_some_and(|separator| !reader.take(separator)) {
        return None;
    }
    let day = midnight(month, reader.digits(min_digits, 2)?)?.date();
    if reader.rest.is_empty() {
        return at(day.to_datetime(Time::midnight()));
    }
    if !reader.take(b'T') && !reader.take(b' ') {
        return None;
    }
    let time = reader.time()?;
    let utc_offset_seconds = reader.offset()?;
    Some(Iso { local: day.to_datetime(time), utc_offset_seconds, has_nanoseconds: reader.has_nanoseconds })
}

/// C's `isspace`.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

struct Reader<'a> {
    rest: &'a [u8],
    has_nanoseconds: bool,
}

impl Reader<'_> {
    fn take(&mut self, byte: u8) -> bool {
        let found = self.rest.first() == Some(&byte);
        self.rest = &self.rest[usize::from(found)..];
        found
    }

    fn starts_with_digit(&self) -> bool {
        self.rest.first().is_some_and(u8::is_ascii_digit)
    }

    fn num_digits(&self) -> usize {
        self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    }

    /// The number in the next `min` to `max` digits.
    fn digits(&mut self, min: usize, max: usize) -> Option<i64> {
        let length = self.num_digits().min(max);
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        let number = digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
        (length >= min).then_some(number)
    }

    fn spaces(&mut self) {
        let length = self.rest.iter().take_while(|&&byte| is_space(char::from(byte))).count();
        self.rest = &self.rest[length..];
    }

    /// `9:05`, `09`, `0905`, with seconds and their fraction.
    fn time(&mut self) -> Option<Time> {
        let num_hour_digits = self.num_digits().min(2);
        let hour = self.digits(1, 2)?;
        let has_colon = self.take(b':');
        if !has_colon && num_hour_digits < 2 {
            return None;
        }
        let min_digits = if has_colon { 1 } else { 2 };
        let (mut minute, mut second, mut nanosecond) = (0, 0, 0);
        if has_colon || self.starts_with_digit() {
            minute = self.digits(min_digits, 2)?;
            if if has_colon { self.take(b':') } else { self.starts_with_digit() } {
                second = self.digits(min_digits, 2)?;
                if self.take(b'.') {
                    nanosecond = self.nanoseconds();
                }
            }
        }
        let small = |number: i64| i8::try_from(number).ok();
        Time::new(small(hour)?, small(minute)?, small(second)?, nanosecond).ok()
    }

    /// Up to 18 digits of a fraction, of which nine count.
    fn nanoseconds(&mut self) -> i32 {
        let length = self.num_digits().min(18);
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        self.has_nanoseconds = length > 6;
        digits.iter().chain(b"000000000").take(9).fold(0, |number, digit| number * 10 + i32::from(digit - b'0'))
    }

    /// The distance to UTC; the inner `None` if there is none. Nothing may follow it.
    fn offset(&mut self) -> Option<Option<i64>> {
        self.spaces();
        let mut offset = None;
        if self.take(b'Z') {
            offset = Some(0);
        } else if let Some(sign @ (b'+' | b'-')) = self.rest.first() {
            self.rest = &self.rest[1..];
            let hours = self.digits(1, 2).filter(|&hours| hours < 24)?;
            let mut minutes = 0;
            if !self.rest.is_empty() {
                self.take(b':');
                minutes = self.digits(1, 2).filter(|&minutes| minutes < 60)?;
            }
            let seconds = hours * 3600 + minutes * 60;
            offset = Some(if *sign == b'-' { -seconds } else { seconds });
        }
        self.spaces();
        self.rest.is_empty().then_some(offset)
    }
}
