//! Dates as the office writes them. Everything is counted in days from the first day of the calendar table.

use std::time::Duration;

use jiff::civil::{Date, Weekday, date};

use super::random::Random;

/// A day, as the number of days since 2023-08-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Day(pub usize);

/// First and last day with events.
pub(super) const FIRST_EVENT: Day = Day(0);
pub(super) const LAST_EVENT: Day = Day(142);
/// First day with visits.
pub(super) const FIRST_VISIT: Day = Day(31);
/// First day with mails and with contacts of customers.
pub(super) const FIRST_MAIL: Day = Day(61);
/// 2023-11-30, the day on which every task is set.
pub(super) const TODAY: Day = Day(121);
/// First and last day on which the tasks of the table are due.
pub(super) const FIRST_DUE: Day = Day(118);
pub(super) const LAST_DUE: Day = Day(134);
/// Last follow-up date in the customer table.
pub(super) const LAST_FOLLOW_UP: Day = Day(150);
/// Monday and Sunday of next week. Requests say "next Friday" of a day between them: that of this week is tomorrow.
pub(super) const NEXT_MONDAY: Day = Day(125);
pub(super) const NEXT_SUNDAY: Day = Day(131);
/// Last day that requests name: 2024-02-28.
pub(super) const LAST_FUTURE: Day = Day(211);

impl Day {
    fn date(self) -> Date {
        date(2023, 8, 1).saturating_add(Duration::from_secs(self.0 as u64 * 86_400))
    }

    pub fn is_weekend(self) -> bool {
        matches!(self.date().weekday(), Weekday::Saturday | Weekday::Sunday)
    }

    /// `2023-11-30`
    pub fn iso(self) -> String {
        self.date().to_string()
    }

    /// `November 30`
    pub fn in_words(self) -> String {
        const MONTHS: [&str; 12] = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ];
        let date = self.date();
        // Months are counted from 1.
        let month = usize::from(date.month().unsigned_abs()) - 1;
        format!("{} {}", MONTHS[month], date.day())
    }

    /// `2023-11-30 23:59:00`, as contact and follow-up dates are stored.
    pub fn end(self) -> String {
        format!("{} 23:59:00", self.date())
    }

    pub fn draw(random: &mut Random, first: Day, last: Day) -> Self {
        Self(random.within(first.0, last.0))
    }

    pub fn draw_weekday(random: &mut Random, first: Day, last: Day) -> Self {
        loop {
            let day = Self::draw(random, first, last);
            if !day.is_weekend() {
                return day;
            }
        }
    }
}

/// `09:30` from minutes after midnight.
pub(super) fn clock(minutes: usize) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_days_are_right() {
        assert_eq!(FIRST_EVENT.iso(), "2023-08-01");
        assert_eq!(LAST_EVENT.iso(), "2023-12-21");
        assert_eq!(FIRST_VISIT.iso(), "2023-09-01");
        assert_eq!(FIRST_MAIL.iso(), "2023-10-01");
        assert_eq!(TODAY.end(), "2023-11-30 23:59:00");
        assert_eq!(FIRST_DUE.iso(), "2023-11-27");
        assert_eq!(LAST_DUE.iso(), "2023-12-13");
        assert_eq!(LAST_FOLLOW_UP.iso(), "2023-12-29");
        assert_eq!(LAST_FUTURE.iso(), "2024-02-28");
        assert_eq!((NEXT_MONDAY.iso(), NEXT_SUNDAY.iso()), ("2023-12-04".into(), "2023-12-10".into()));
        assert_eq!(NEXT_MONDAY.date().weekday(), Weekday::Monday);
        assert_eq!((TODAY.in_words(), Day(0).in_words()), ("November 30".into(), "August 1".into()));
        assert!(Day(4).is_weekend());
        assert_eq!(clock(575), "09:35");
    }
}
