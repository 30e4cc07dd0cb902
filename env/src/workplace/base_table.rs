//! The rows that all sessions of an office share, with what speeds up looking for some of them: an order by id, the
//! lower-case text that a search by words looks at, and filters by fragments of text. The costlier ones are made when
//! they are first asked for.

use std::sync::{Arc, OnceLock};

use super::grams::Grams;
use crate::python_compat::Value;
use crate::python_compat::timestamp::Timestamp;

pub(crate) type Row = Arc<[Value]>;

/// Columns with a special use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ColumnUses {
    /// Holds points in time.
    pub(crate) time: usize,
    /// Searched together, by words: their texts with a blank between them.
    pub(crate) joined: &'static [usize],
}

/// The joined columns of each row in lower case.
#[derive(Debug)]
pub(crate) struct JoinedTexts {
    pub(crate) texts: Vec<Box<str>>,
    pub(crate) grams: Grams,
}

#[derive(Debug)]
pub(crate) struct BaseTable {
    pub(crate) columns: &'static [&'static str],
    pub(crate) rows: Vec<Row>,
    pub(crate) time_column: usize,
    /// How many cells of each column are text.
    pub(crate) num_text: Vec<usize>,
    joined_columns: &'static [usize],
    /// Slots of the rows whose id is text, by id, then by slot.
    slots_by_id: Vec<usize>,
    times: OnceLock<Vec<Option<Timestamp>>>,
    joined: OnceLock<JoinedTexts>,
    grams: Vec<OnceLock<Grams>>,
}

impl BaseTable {
    pub(crate) fn new(columns: &'static [&'static str], rows: Vec<Row>, uses: ColumnUses) -> Self {
        let is_text = |row: &Row, column: usize| row[column].as_str().is_some();
        let num_text = |column| rows.iter().filter(|row| is_text(row, column)).count();
        let num_text = (0..columns.len()).map(num_text).collect();
        let mut slots_by_id: Vec<usize> = (0..rows.len()).filter(|&slot| is_text(&rows[slot], 0)).collect();
        // Stable, so that rows of one id stay in order.
        slots_by_id.sort_by_key(|&slot| rows[slot][0].as_str());
        Self {
            columns,
            time_column: uses.time,
            num_text,
            joined_columns: uses.joined,
            slots_by_id,
            times: OnceLock::new(),
            joined: OnceLock::new(),
            grams: columns.iter().map(|_| OnceLock::new()).collect(),
            rows,
        }
    }

    fn id(&self, slot: usize) -> Option<&str> {
        self.rows[slot][0].as_str()
    }

    /// Slots of the rows whose id is text, by id.
    pub(crate) fn slots_by_id(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        self.slots_by_id.iter().copied()
    }

    /// Slots of the rows with this id, ascending.
    pub(crate) fn slots_of_id(&self, id: &str) -> impl Iterator<Item = usize> + '_ {
        let start = self.slots_by_id.partition_point(|&slot| self.id(slot) < Some(id));
        let end = start + self.slots_by_id[start..].partition_point(|&slot| self.id(slot) <= Some(id));
        self.slots_by_id[start..end].iter().copied()
    }

    /// The points in time of the time column; `None` where a cell is none.
    pub(crate) fn times(&self) -> &[Option<Timestamp>] {
        let time = |row: &Row| Timestamp::from_value(&row[self.time_column]).ok();
        self.times.get_or_init(|| self.rows.iter().map(time).collect())
    }

    /// The text of a row that a search by words looks at.
    pub(crate) fn joined_text(&self, row: &[Value]) -> String {
        let texts: Vec<String> = self.joined_columns.iter().map(|&column| row[column].text()).collect();
        texts.join(" ").to_lowercase()
    }

    pub(crate) fn joined(&self) -> &JoinedTexts {
        self.joined.get_or_init(|| {
            let texts: Vec<Box<str>> = self.rows.iter().map(|row| self.joined_text(row).into()).collect();
            JoinedTexts { grams: Grams::new(texts.iter().map(|text| Some(&**text))), texts }
        })
    }

    /// A filter of the rows by the text of a column.
    pub(crate) fn grams(&self, column: usize) -> &Grams {
        self.grams[column].get_or_init(|| Grams::new(self.rows.iter().map(|row| row[column].as_str())))
    }
}
