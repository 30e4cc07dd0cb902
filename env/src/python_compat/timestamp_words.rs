//! Dates in free form ("Dec 1 2023 9am", "30/11/2023", "Oct 15,2023"): each token finds its meaning from its
//! neighbours, by the rules of the date parser that pandas falls back on.

use super::timestamp_date::{DateParts, convert_year, month};
use super::timestamp_tokens::tokens;

/// What a text says about a point in time; ranges are not checked yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    pub(super) year: Option<i64>,
    pub(super) month: Option<i64>,
    pub(super) day: Option<i64>,
    pub(super) hour: Option<i64>,
    pub(super) minute: Option<i64>,
    pub(super) second: Option<i64>,
    pub(super) nanosecond: i32,
    pub(super) utc_offset_seconds: Option<i64>,
    pub(super) has_weekday: bool,
}

impl Fields {
    pub(super) fn numbers(&self) -> impl Iterator<Item = i64> {
        [self.year, self.month, self.day, self.hour, self.minute, self.second].into_iter().flatten()
    }
}

const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
/// Words and signs that mean nothing by themselves.
const FILLERS: [&str; 17] =
    [" ", ".", ",", ";", "-", "/", "'", "at", "on", "and", "ad", "m", "t", "of", "st", "nd", "rd"];
/// Python reads these words as numbers, which are none of a date.
const WORDS_OF_FLOATS: [&str; 3] = ["inf", "infinity", "nan"];
const UTC_NAMES: [&str; 4] = ["UTC", "GMT", "Z", "z"];
const MAX_ZONE_NAME_LENGTH: usize = 5;

fn is_filler(token: &str) -> bool {
    let token = token.to_lowercase();
    token == "th" || FILLERS.contains(&token.as_str())
}

fn is_weekday(word: &str) -> bool {
    let word = word.to_lowercase();
    WEEKDAYS.iter().any(|name| *name == word || name[..3] == word)
}

fn is_afternoon(word: &str) -> Option<bool> {
    match word.to_lowercase().as_str() {
        "am" | "a" => Some(false),
        "pm" | "p" => Some(true),
        _ => None,
    }
}

/// The part of the time that a word after a number names.
#[derive(Clone, Copy)]
enum Unit {
    Hour,
    Minute,
    Second,
}

fn unit(word: &str) -> Option<Unit> {
    match word.to_lowercase().as_str() {
        "h" | "hour" | "hours" => Some(Unit::Hour),
        "m" | "minute" | "minutes" => Some(Unit::Minute),
        "s" | "second" | "seconds" => Some(Unit::Second),
        _ => None,
    }
}

/// Python's `int(text)` of a token or a part of one. What is too large for any field is the largest number.
pub(super) fn integer(text: &str) -> Option<i64> {
    let is_integer = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_integer.then(|| text.parse().unwrap_or(i64::MAX))
}

/// A token of digits, perhaps with a fraction.
#[derive(Clone, Copy)]
pub(super) struct Number<'a> {
    pub(super) whole: i64,
    fraction: &'a str,
}

impl<'a> Number<'a> {
    fn read(token: &'a str) -> Option<Self> {
        let (whole, fraction) = token.split_once('.').unwrap_or((token, "0"));
        integer(fraction)?;
        Some(Self { whole: integer(whole)?, fraction })
    }

    pub(super) fn has_fraction(&self) -> bool {
        self.fraction.bytes().any(|digit| digit != b'0')
    }

    /// The fraction in sixtieths.
    fn sixtieths(&self) -> i64 {
        // More digits than these do not change a sixtieth that is cut off.
        let digits = self.fraction.get(..15).unwrap_or(self.fraction);
        let denominator = 10_i64.pow(u32::try_from(digits.len()).unwrap_or(0));
        60 * integer(digits).unwrap_or(0) / denominator
    }
}

struct Reader {
    tokens: Vec<String>,
    at: usize,
    fields: Fields,
    date: DateParts,
    zone: Option<String>,
}

/// Reads a text; `None` if some part of it has no place in a date.
pub(super) fn read_words(text: &str) -> Option<Fields> {
    let mut reader =
        Reader { tokens: tokens(text), at: 0, fields: Fields::default(), date: DateParts::default(), zone: None };
    while let Some(token) = reader.tokens.get(reader.at).cloned() {
        reader.token(&token)?;
        reader.at += 1;
    }
    let mut fields = reader.fields;
    (fields.year, fields.month, fields.day) = reader.date.resolve()?;
    // Names of other zones are read and ignored.
    if reader.zone.is_some_and(|zone| UTC_NAMES.iter().any(|name| name.eq_ignore_ascii_case(&zone))) {
        fields.utc_offset_seconds = Some(0);
    }
    Some(fields)
}

impl Reader {
    /// The token `ahead` of the present one.
    fn peek(&self, ahead: usize) -> Option<&str> {
        self.tokens.get(self.at + ahead).map(String::as_str)
    }

    fn next_is(&self, ahead: usize, token: &str) -> bool {
        self.peek(ahead) == Some(token)
    }

    fn token(&mut self, token: &str) -> Option<()> {
        if let Some(number) = Number::read(token) {
            return self.number(token, number);
        }
        if WORDS_OF_FLOATS.iter().any(|word| word.eq_ignore_ascii_case(token)) {
            return None;
        }
        if is_weekday(token) {
            self.fields.has_weekday = true;
            return Some(());
        }
        if let Some(month) = month(token) {
            self.date.push_month(month)?;
            return self.after_month();
        }
        if let Some(is_pm) = is_afternoon(token) {
            let hour = self.fields.hour.filter(|hour| (0..=12).contains(hour))?;
            self.set_hour(hour, is_pm);
            return Some(());
        }
        if self.fields.utc_offset_seconds.is_none() && self.could_be_zone(token) {
            self.zone_name(token);
            return Some(());
        }
        if self.fields.hour.is_some() && matches!(token, "+" | "-") {
            return self.offset(token == "-");
        }
        is_filler(token).then_some(())
    }

    /// `-15`, `/15/2023` or ` of 2023`.
    fn after_month(&mut self) -> Option<()> {
        let separator = self.peek(1).unwrap_or_default().to_owned();
        if matches!(&*separator, "-" | "/") {
            let number = self.peek(2)?.to_owned();
            self.date.push_text(&number)?;
            if self.next_is(3, &separator) {
                let number = self.peek(4)?.to_owned();
                self.date.push_text(&number)?;
                self.at += 2;
            }
            self.at += 2;
        } else if let (" ", Some(of), Some(" "), Some(year)) = (&*separator, self.peek(2), self.peek(3), self.peek(4))
            && of.eq_ignore_ascii_case("of")
        {
            if let Some(year) = integer(year) {
                self.date.push_year(convert_year(year))?;
            }
            self.at += 4;
        }
        Some(())
    }

    fn number(&mut self, text: &str, number: Number) -> Option<()> {
        let part = |start: usize, end: usize| integer(text.get(start..end)?);
        let ends_the_date = self.peek(1).is_none_or(|next| next != ":" && unit(next).is_none());
        match text.len() {
            2 | 4 if self.date.len() == 3 && self.fields.hour.is_none() && ends_the_date => {
                self.fields.hour = Some(part(0, 2)?);
                if text.len() == 4 {
                    self.fields.minute = Some(part(2, 4)?);
                }
                return Some(());
            }
            length if length == 6 || length > 6 && text.find('.') == Some(6) => {
                if self.date.len() == 0 && !text.contains('.') {
                    return [0..2, 2..4, 4..6].into_iter().try_for_each(|range| self.date.push_text(&text[range]));
                }
                (self.fields.hour, self.fields.minute) = (Some(part(0, 2)?), Some(part(2, 4)?));
                return self.seconds(&text[4..]);
            }
            length @ (8 | 12 | 14) => {
                self.date.push_year(part(0, 4)?)?;
                self.date.push_text(&text[4..6])?;
                self.date.push_text(&text[6..8])?;
                if length > 8 {
                    (self.fields.hour, self.fields.minute) = (Some(part(8, 10)?), Some(part(10, 12)?));
                }
                if length > 12 {
                    self.fields.second = Some(part(12, 14)?);
                }
                return Some(());
            }
            _ => {}
        }
        if let Some((unit, num_read)) = self.unit_of_number() {
            self.at += num_read;
            return self.set_unit(unit, text, number);
        }
        if self.next_is(1, ":") && self.peek(2).is_some() {
            self.fields.hour = Some(number.whole);
            let minutes = self.peek(2)?.to_owned();
            self.set_minutes(Number::read(&minutes)?);
            if self.next_is(3, ":")
                && let Some(seconds) = self.peek(4).map(str::to_owned)
            {
                self.seconds(&seconds)?;
                self.at += 2;
            }
            self.at += 2;
            return Some(());
        }
        let next = self.peek(1).unwrap_or(" ").to_owned();
        if self.peek(1).is_some() && matches!(&*next, "-" | "/" | ".") {
            self.date.push_text(text)?;
            return self.rest_of_date(&next);
        }
        if is_filler(&next) {
            match self.peek(2).and_then(is_afternoon) {
                Some(is_pm) => {
                    self.set_hour(number.whole, is_pm);
                    self.at += 1;
                }
                None => self.date.push_number(number)?,
            }
            self.at += 1;
            return Some(());
        }
        match is_afternoon(&next).filter(|_| number.whole < 24) {
            Some(is_pm) => {
                self.set_hour(number.whole, is_pm);
                self.at += 1;
                Some(())
            }
            None if self.date.could_be_day(number) => self.date.push_number(number),
            None => None,
        }
    }

    /// What follows `2023-` or `30/`.
    fn rest_of_date(&mut self, separator: &str) -> Option<()> {
        if let Some(second) = self.peek(2).filter(|token| !is_filler(token)).map(str::to_owned) {
            self.date_part(&second)?;
            if self.next_is(3, separator) {
                let third = self.peek(4)?.to_owned();
                self.date_part(&third)?;
                self.at += 2;
            }
            self.at += 1;
        }
        self.at += 1;
        Some(())
    }

    fn date_part(&mut self, token: &str) -> Option<()> {
        match month(token) {
            Some(month) => self.date.push_month(month),
            None => self.date.push_text(token),
        }
    }

    /// The unit of the present number, and how many tokens after it belong to it. A number without a word of its own
    /// counts in the next smaller unit than the number before it, of which `None` is left after the seconds.
    fn unit_of_number(&self) -> Option<(Option<Unit>, usize)> {
        if let Some(unit) = self.peek(1).and_then(unit) {
            return Some((Some(unit), 1));
        }
        if let Some(unit) = self.peek(2).and_then(unit).filter(|_| self.next_is(1, " ")) {
            return Some((Some(unit), 2));
        }
        let before = |distance: usize| self.at.checked_sub(distance).map(|at| &*self.tokens[at]);
        let is_last = self.peek(1).is_none();
        let larger = before(1).and_then(unit).or_else(|| {
            let word = before(2).filter(|_| is_last && before(1) == Some(" "))?;
            unit(word)
        })?;
        let smaller = match larger {
            Unit::Hour => Some(Unit::Minute),
            Unit::Minute => Some(Unit::Second),
            Unit::Second => None,
        };
        Some((smaller, 0))
    }

    fn set_unit(&mut self, unit: Option<Unit>, text: &str, number: Number) -> Option<()> {
        match unit {
            Some(Unit::Hour) => {
                self.fields.hour = Some(number.whole);
                if number.has_fraction() {
                    self.fields.minute = Some(number.sixtieths());
                }
            }
            Some(Unit::Minute) => self.set_minutes(number),
            Some(Unit::Second) => self.seconds(text)?,
            None => {}
        }
        Some(())
    }

    fn set_minutes(&mut self, number: Number) {
        self.fields.minute = Some(number.whole);
        self.fields.second = number.has_fraction().then(|| number.sixtieths());
    }

    fn seconds(&mut self, text: &str) -> Option<()> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        integer(fraction)?;
        self.fields.second = Some(integer(whole)?);
        // Python keeps microseconds.
        let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
        self.fields.nanosecond = digits.parse::<i32>().ok()? * 1000;
        Some(())
    }

    fn set_hour(&mut self, hour: i64, is_pm: bool) {
        self.fields.hour = Some(match hour {
            12 if !is_pm => 0,
            hour if hour < 12 && is_pm => hour + 12,
            hour => hour,
        });
    }

    fn could_be_zone(&self, token: &str) -> bool {
        let is_name = token.bytes().all(|byte| byte.is_ascii_uppercase()) || UTC_NAMES.contains(&token);
        self.fields.hour.is_some() && self.zone.is_none() && token.len() <= MAX_ZONE_NAME_LENGTH && is_name
    }

    fn zone_name(&mut self, token: &str) {
        let is_utc = UTC_NAMES.contains(&token);
        self.zone = Some(token.to_owned());
        self.fields.utc_offset_seconds = is_utc.then_some(0);
        // "GMT+3" says that it is three hours later in Greenwich than here.
        if let Some(sign) = self.tokens.get_mut(self.at + 1)
            && let Some(opposite) = [("+", "-"), ("-", "+")].iter().find_map(|(a, b)| (sign == a).then_some(*b))
        {
            *sign = opposite.to_owned();
            self.fields.utc_offset_seconds = None;
            if is_utc {
                self.zone = None;
            }
        }
    }

    /// `+0230`, `+02:30` or `+2`, perhaps with a name in parentheses.
    fn offset(&mut self, is_negative: bool) -> Option<()> {
        let digits = self.peek(1)?;
        let (hours, minutes) = if digits.chars().count() == 4 {
            (integer(digits.get(..2)?)?, integer(digits.get(2..)?)?)
        } else if self.next_is(2, ":") {
            let offset = (integer(digits)?, integer(self.peek(3)?)?);
            self.at += 2;
            offset
        } else {
            (integer(digits).filter(|_| digits.len() <= 2)?, 0)
        };
        let seconds = hours.saturating_mul(3600).saturating_add(minutes.saturating_mul(60));
        self.fields.utc_offset_seconds = Some(if is_negative { -seconds } else { seconds });
        if let (Some(filler), Some("("), Some(name), Some(")")) =
            (self.peek(2), self.peek(3), self.peek(4), self.peek(5))
            && is_filler(filler)
            && name.len() >= 3
            && self.could_be_zone(name)
        {
            self.zone = Some(name.to_owned());
            self.at += 4;
        }
        self.at += 1;
        Some(())
    }
}
