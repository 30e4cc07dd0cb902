//! Dates in free form ("Dec 1 2023 9am", "30/11/2023", "20231201T0900"): the text is cut into
//! numbers, words and signs, and each finds its meaning from its neighbours, by the rules of the
//! date parser that pandas falls back on.

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
    pub(super) fn is_empty(&self) -> bool {
        [self.year, self.month, self.day, self.hour, self.minute, self.second].iter().all(Option::is_none)
    }
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
/// Words that mean nothing by themselves.
const FILLERS: [&str; 11] = ["at", "on", "and", "ad", "m", "t", "of", "st", "nd", "rd", "th"];
/// Two-digit years are those nearest to the simulated present.
const FIRST_TWO_DIGIT_YEAR_OF_1900S: i64 = 73;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// Digits, perhaps with a fraction.
    Number(String),
    /// Letters in lower case, and whether they were all upper-case ASCII.
    Word(String, bool),
    Sign(char),
}

fn tokens(text: &str) -> Vec<Token> {
    let characters: Vec<char> = text.chars().filter(|&c| c != '\0').collect();
    let run = |start: usize, accept: fn(char) -> bool| {
        let length = characters[start..].iter().take_while(|&&c| accept(c)).count();
        start + length
    };
    let is_digit = |c: char| c.is_ascii_digit();
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(&c) = characters.get(at) {
        let start = at;
        if is_digit(c) {
            at = run(at, is_digit);
            let has_fraction = |at: usize| {
                matches!(characters.get(at), Some('.' | ','))
                    && characters.get(at + 1).is_some_and(char::is_ascii_digit)
            };
            let whole: String = characters[start..at].iter().collect();
            if has_fraction(at) && !matches!(out.last(), Some(Token::Sign('.'))) {
                let end = run(at + 1, is_digit);
                // A second point makes it a date such as 12.01.2023; a comma needs a second field.
                let is_seconds = matches!(out.last(), Some(Token::Sign(':')));
                if !has_fraction(end) && (characters[at] == '.' || is_seconds) {
                    let fraction: String = characters[at + 1..end].iter().collect();
                    out.push(Token::Number(format!("{whole}.{fraction}")));
                    at = end;
                    continue;
                }
            }
            out.push(Token::Number(whole));
        } else if c.is_alphabetic() {
            at = run(at, char::is_alphabetic);
            let word: String = characters[start..at].iter().collect();
            let is_upper = word.bytes().all(|b| b.is_ascii_uppercase());
            out.push(Token::Word(word.to_lowercase(), is_upper));
        } else {
            at += 1;
            out.push(Token::Sign(if c.is_whitespace() { ' ' } else { c }));
        }
    }
    out
}

/// Number of a month or weekday that `word` names in full or by its first three letters.
fn index_of(names: &[&str], word: &str) -> Option<i64> {
    let is_name = |name: &&str| *name == word || word.len() == 3 && name.starts_with(word);
    let index = names.iter().position(is_name)?;
    i64::try_from(index + 1).ok()
}

fn month(word: &str) -> Option<i64> {
    index_of(&MONTHS, if word == "sept" { "sep" } else { word })
}

fn is_afternoon(word: &str) -> Option<bool> {
    match word {
        "am" | "a" => Some(false),
        "pm" | "p" => Some(true),
        _ => None,
    }
}

/// Year, month and day in the order found.
#[derive(Default)]
struct DateParts {
    values: Vec<i64>,
    month_word: Option<usize>,
    /// Where a number of more than two digits stands: that is a year of its full value.
    full_year: Option<usize>,
}

impl DateParts {
    fn push_number(&mut self, text: &str) -> Option<()> {
        let value: i64 = text.parse().ok()?;
        if text.len() > 2 || value > 100 {
            self.full_year = Some(self.values.len());
        }
        self.push(value)
    }

    fn push_month(&mut self, month: i64) -> Option<()> {
        if self.month_word.is_some() {
            return None;
        }
        self.month_word = Some(self.values.len());
        self.push(month)
    }

    fn push(&mut self, value: i64) -> Option<()> {
        self.values.push(value);
        (self.values.len() <= 3).then_some(())
    }

    /// Decides which number is which; values above 31 are years.
    fn assign(&self, fields: &mut Fields) {
        let (year, month, day) = match (self.values.as_slice(), self.month_word) {
            ([], _) => (None, None, None),
            (&[month], Some(_)) => (None, Some(month), None),
            (&[other], None) if other > 31 => (Some(other), None, None),
            (&[other], None) => (None, None, Some(other)),
            (&[a, b], Some(word)) => {
                let (month, other) = if word == 0 { (a, b) } else { (b, a) };
                if other > 31 { (Some(other), Some(month), None) } else { (None, Some(month), Some(other)) }
            }
            (&[a, b], None) if a > 31 => (Some(a), Some(b), None),
            (&[a, b], None) if b > 31 => (Some(b), Some(a), None),
            (&[a, b], None) => (None, Some(a), Some(b)),
            (&[a, b, c], Some(0)) if b > 31 => (Some(b), Some(a), Some(c)),
            (&[a, b, c], Some(0)) => (Some(c), Some(a), Some(b)),
            (&[a, b, c], Some(1)) if a > 31 => (Some(a), Some(b), Some(c)),
            (&[a, b, c], Some(1)) => (Some(c), Some(b), Some(a)),
            (&[a, b, c], Some(_)) if b > 31 => (Some(b), Some(c), Some(a)),
            (&[a, b, c], Some(_)) => (Some(a), Some(c), Some(b)),
            (&[a, b, c], None) if a > 31 || self.full_year == Some(0) => (Some(a), Some(b), Some(c)),
            (&[a, b, c], None) if a > 12 => (Some(c), Some(b), Some(a)),
            (&[a, b, c, ..], None) => (Some(c), Some(a), Some(b)),
            (_, Some(_)) => (None, None, None),
        };
        fields.year = year.map(|year| match year {
            0..100 if self.full_year.is_none() && year < FIRST_TWO_DIGIT_YEAR_OF_1900S => year + 2000,
            0..100 if self.full_year.is_none() => year + 1900,
            year => year,
        });
        (fields.month, fields.day) = (month, day);
    }
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    fields: Fields,
    date: DateParts,
    has_zone: bool,
}

/// Reads a text; `None` if some part of it has no place in a date.
pub(super) fn read_words(text: &str) -> Option<Fields> {
    let mut reader =
        Reader { tokens: tokens(text), at: 0, fields: Fields::default(), date: DateParts::default(), has_zone: false };
    while let Some(token) = reader.tokens.get(reader.at).cloned() {
        reader.at += 1;
        match token {
            Token::Number(number) => reader.number(&number)?,
            Token::Word(word, is_upper) => reader.word(&word, is_upper)?,
            Token::Sign(sign) => reader.sign(sign)?,
        }
    }
    reader.date.assign(&mut reader.fields);
    Some(reader.fields)
}

impl Reader {
    fn peek(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead)
    }

    fn peek_word(&self, ahead: usize) -> Option<&str> {
        match self.peek(ahead)? {
            Token::Word(word, _) => Some(word),
            _ => None,
        }
    }

    fn next_number(&mut self) -> Option<String> {
        let Token::Number(number) = self.peek(0)? else {
            return None;
        };
        let number = number.clone();
        self.at += 1;
        Some(number)
    }

    fn take_sign(&mut self, sign: char) -> bool {
        let found = self.peek(0) == Some(&Token::Sign(sign));
        self.at += usize::from(found);
        found
    }

    fn is_filler(&self, ahead: usize) -> bool {
        match self.peek(ahead) {
            None => true,
            Some(Token::Sign(sign)) => " .,;-/'".contains(*sign),
            Some(Token::Word(word, _)) => FILLERS.contains(&word.as_str()),
            Some(Token::Number(_)) => false,
        }
    }

    fn number(&mut self, text: &str) -> Option<()> {
        let whole = text.split('.').next().unwrap_or(text);
        let has_fraction = whole.len() < text.len();
        let part = |start: usize, end: usize| -> Option<i64> { whole.get(start..end)?.parse().ok() };
        let has_date = self.date.values.len() == 3;
        let is_last = matches!(self.peek(0), None | Some(Token::Sign(' ')))
            || self.peek_word(0).is_some_and(|word| is_afternoon(word).is_some());
        match whole.len() {
            2 | 4
                if has_date && self.fields.hour.is_none() && is_last && !has_fraction
                // "9 am" after the date is an hour with its half of the day.
                && self.half_of_day(0).is_none() =>
            {
                self.fields.hour = part(0, 2);
                self.fields.minute = part(2, 4);
                return Some(());
            }
            6 if self.date.values.is_empty() && !has_fraction => {
                self.date.push_number(&whole[..2])?;
                self.date.push_number(&whole[2..4])?;
                return self.date.push_number(&whole[4..]);
            }
            6 => {
                (self.fields.hour, self.fields.minute) = (part(0, 2), part(2, 4));
                return self.seconds(&text[4..]);
            }
            8 | 12 | 14 if !has_fraction => {
                self.date.push_number(&whole[..4])?;
                self.date.push(part(4, 6)?)?;
                self.date.push(part(6, 8)?)?;
                if whole.len() > 8 {
                    (self.fields.hour, self.fields.minute) = (part(8, 10), part(10, 12));
                }
                self.fields.second = part(12, 14);
                return Some(());
            }
            _ => {}
        }
        if let Some(unit) =
            self.unit(0).or_else(|| (self.peek(0) == Some(&Token::Sign(' '))).then(|| self.unit(1)).flatten())
        {
            self.at += 1 + usize::from(self.peek(0) == Some(&Token::Sign(' ')));
            match unit {
                'h' => self.fields.hour = Some(whole.parse().ok()?),
                'm' => self.fields.minute = Some(whole.parse().ok()?),
                _ => return self.seconds(text),
            }
            return Some(());
        }
        if !has_fraction && self.take_sign(':') {
            self.fields.hour = Some(whole.parse().ok()?);
            self.fields.minute = Some(self.next_number()?.parse().ok()?);
            if self.take_sign(':') {
                let seconds = self.next_number()?;
                return self.seconds(&seconds);
            }
            return Some(());
        }
        if has_fraction {
            return None;
        }
        for separator in ['-', '/', '.'] {
            if self.take_sign(separator) {
                self.date.push_number(whole)?;
                return self.rest_of_date(separator);
            }
        }
        if let Some(is_pm) = self.half_of_day(0) {
            self.at += 1;
            return self.hour_of_half(whole, is_pm);
        }
        if self.is_filler(0) {
            if let Some(is_pm) = self.half_of_day(1) {
                self.at += 2;
                return self.hour_of_half(whole, is_pm);
            }
            self.at += 1;
            return self.date.push_number(whole);
        }
        let could_be_day = whole.parse::<i64>().is_ok_and(|day| (1..=31).contains(&day));
        could_be_day.then_some(())?;
        self.date.push_number(whole)
    }

    fn half_of_day(&self, ahead: usize) -> Option<bool> {
        is_afternoon(self.peek_word(ahead)?)
    }

    /// The unit that a word after a number names: `h`, `m` or `s`.
    fn unit(&self, ahead: usize) -> Option<char> {
        match self.peek_word(ahead)? {
            "h" | "hour" | "hours" => Some('h'),
            "m" | "minute" | "minutes" => Some('m'),
            "s" | "second" | "seconds" => Some('s'),
            _ => None,
        }
    }

    fn hour_of_half(&mut self, whole: &str, is_pm: bool) -> Option<()> {
        self.fields.hour = Some(whole.parse().ok()?);
        self.set_half_of_day(is_pm)
    }

    fn set_half_of_day(&mut self, is_pm: bool) -> Option<()> {
        let hour = self.fields.hour.filter(|hour| (0..=12).contains(hour))?;
        self.fields.hour = Some(hour % 12 + if is_pm { 12 } else { 0 });
        Some(())
    }

    fn seconds(&mut self, text: &str) -> Option<()> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        self.fields.second = Some(whole.parse().ok()?);
        if !fraction.is_empty() {
            // Python keeps microseconds.
            let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
            self.fields.nanosecond = digits.parse::<i32>().ok()? * 1000;
        }
        Some(())
    }

    /// What follows `2023-` or `30/`.
    fn rest_of_date(&mut self, separator: char) -> Option<()> {
        if self.is_filler(0) && self.peek(0).is_none_or(|t| *t == Token::Sign(' ')) {
            return Some(());
        }
        self.date_part()?;
        if self.take_sign(separator) {
            self.date_part()?;
        }
        Some(())
    }

    fn date_part(&mut self) -> Option<()> {
        match self.peek_word(0).map(month) {
            Some(month) => {
                self.at += 1;
                self.date.push_month(month?)
            }
            None => {
                let number = self.next_number()?;
                self.date.push_number(&number)
            }
        }
    }

    fn word(&mut self, word: &str, is_upper: bool) -> Option<()> {
        if index_of(&WEEKDAYS, word).is_some() {
            self.fields.has_weekday = true;
            return Some(());
        }
        if let Some(month) = month(word) {
            self.date.push_month(month)?;
            for separator in ['-', '/'] {
                if self.take_sign(separator) {
                    let number = self.next_number()?;
                    self.date.push_number(&number)?;
                    if self.take_sign(separator) {
                        let number = self.next_number()?;
                        self.date.push_number(&number)?;
                    }
                }
            }
            return Some(());
        }
        if let Some(is_pm) = is_afternoon(word) {
            return self.set_half_of_day(is_pm);
        }
        let is_utc = matches!(word, "utc" | "gmt" | "z");
        let could_be_zone = word.len() <= 5 && (is_upper || is_utc);
        if self.fields.hour.is_some() && !self.has_zone && could_be_zone {
            self.has_zone = true;
            // Names of other zones are read and ignored.
            if is_utc {
                self.fields.utc_offset_seconds = Some(0);
            }
            return Some(());
        }
        FILLERS.contains(&word).then_some(())
    }

    fn sign(&mut self, sign: char) -> Option<()> {
        let is_offset = matches!(sign, '+' | '-') && self.fields.hour.is_some();
        if !is_offset {
            return " .,;-/'".contains(sign).then_some(());
        }
        let digits = self.next_number()?;
        let number: i64 = digits.parse().ok()?;
        let (hours, minutes) = if digits.len() == 4 {
            (number / 100, number % 100)
        } else if self.take_sign(':') {
            (number, self.next_number()?.parse().ok()?)
        } else if digits.len() <= 2 {
            (number, 0)
        } else {
            return None;
        };
        let seconds = hours.checked_mul(3600)?.checked_add(i64::checked_mul(minutes, 60)?)?;
        self.fields.utc_offset_seconds = Some(if sign == '-' { -seconds } else { seconds });
        Some(())
    }
}
