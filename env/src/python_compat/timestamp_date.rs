//! Which of up to three numbers of a date is the year, the month and the day.

use jiff::civil::Date;

use super::timestamp_words::{Number, integer};

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
/// Two-digit years are those nearest to the simulated present.
const FIRST_TWO_DIGIT_YEAR_OF_1900S: i64 = 73;

/// Number of the month that `word` names in full or by its first three letters.
pub(super) fn month(word: &str) -> Option<i64> {
    let word = word.to_lowercase();
    let is_name = |name: &&str| **name == word || name[..3] == word;
    let index = if word == "sept" { Some(8) } else { MONTHS.iter().position(is_name) };
    i64::try_from(index? + 1).ok()
}

/// The full year of one that may have two digits.
pub(super) fn convert_year(year: i64) -> i64 {
    match year {
        0..FIRST_TWO_DIGIT_YEAR_OF_1900S => year + 2000,
        FIRST_TWO_DIGIT_YEAR_OF_1900S..100 => year + 1900,
        year => year,
    }
}

/// Year, month and day.
type Resolved = (Option<i64>, Option<i64>, Option<i64>);

/// The numbers of a date in the order found. Every `push` gives `None` for what cannot be.
#[derive(Default)]
pub(super) struct DateParts {
    values: Vec<i64>,
    month_at: Option<usize>,
    /// A number of more than two digits is the year, of its full value.
    year_at: Option<usize>,
}

impl DateParts {
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// A token that has to be a whole number.
    pub(super) fn push_text(&mut self, text: &str) -> Option<()> {
        let value = integer(text)?;
        if text.len() > 2 { self.push_year(value) } else { self.push(value) }
    }

    pub(super) fn push_number(&mut self, number: Number) -> Option<()> {
        let is_year = number.whole > 100 || number.whole == 100 && number.has_fraction();
        if is_year { self.push_year(number.whole) } else { self.push(number.whole) }
    }

    pub(super) fn push_year(&mut self, year: i64) -> Option<()> {
        let first = self.year_at.replace(self.values.len());
        first.is_none().then(|| self.values.push(year))
    }

    pub(super) fn push_month(&mut self, month: i64) -> Option<()> {
        let first = self.month_at.replace(self.values.len());
        first.is_none().then(|| self.values.push(month))
    }

    fn push(&mut self, value: i64) -> Option<()> {
        self.values.push(value);
        Some(())
    }

    /// Whether a number fits the month and the year known so far.
    pub(super) fn could_be_day(&self, number: Number) -> bool {
        let at = |index: Option<usize>| index.map(|index| self.values[index]);
        let last = at(self.month_at).map_or(31, |month| {
            let year = at(self.year_at).unwrap_or(2000);
            // The calendar repeats every 400 years.
            let year = i16::try_from(2000 + year % 400).unwrap_or(2000);
            let month = i8::try_from(month).ok().and_then(|month| Date::new(year, month, 1).ok());
            month.map_or(0, |first| i64::from(first.days_in_month()))
        });
        (1..last).contains(&number.whole) || number.whole == last && !number.has_fraction()
    }

    /// Decides which number is which; values above 31 are years. `None` if there are more than three.
    pub(super) fn resolve(&self) -> Option<Resolved> {
        let (year, month, day) = match (self.values.as_slice(), self.year_at, self.month_at) {
            ([], ..) => (None, None, None),
            (&[year], Some(_), _) => (Some(year), None, None),
            (&[month], None, Some(_)) => (None, Some(month), None),
            (&[other], None, None) if other > 31 => (Some(other), None, None),
            (&[other], None, None) => (None, None, Some(other)),
            (&[a, b], Some(0), Some(_)) => (Some(a), Some(b), None),
            (&[a, b], Some(_), Some(_)) => (Some(b), Some(a), None),
            (&[a, b], None, Some(month)) => {
                let (month, other) = if month == 0 { (a, b) } else { (b, a) };
                if other > 31 { (Some(other), Some(month), None) } else { (None, Some(month), Some(other)) }
            }
            (&[a, b], _, None) if a > 31 => (Some(a), Some(b), None),
            (&[a, b], _, None) if b > 31 => (Some(b), Some(a), None),
            (&[a, b], _, None) => (None, Some(a), Some(b)),
            (values @ &[_, _, _], Some(year), Some(month)) => {
                (Some(values[year]), Some(values[month]), Some(values[3 - year - month]))
            }
            (&[a, b, c], None, Some(0)) if b > 31 => (Some(b), Some(a), Some(c)),
            (&[a, b, c], None, Some(0)) => (Some(c), Some(a), Some(b)),
            (&[a, b, c], None, Some(1)) if a > 31 => (Some(a), Some(b), Some(c)),
            (&[a, b, c], None, Some(1)) => (Some(c), Some(b), Some(a)),
            (&[a, b, c], None, Some(_)) if b > 31 => (Some(b), Some(c), Some(a)),
            (&[a, b, c], None, Some(_)) => (Some(a), Some(c), Some(b)),
            (&[a, b, c], year, None) if a > 31 || year == Some(0) => (Some(a), Some(b), Some(c)),
            (&[a, b, c], _, None) if a > 12 => (Some(c), Some(b), Some(a)),
            (&[a, b, c], _, None) => (Some(c), Some(a), Some(b)),
            _ => return None,
        };
        let year = if self.year_at.is_none() { year.map(convert_year) } else { year };
        Some((year, month, day))
    }
}
