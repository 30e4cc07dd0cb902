//! A table of a session: rows shared by all sessions of an office, and what this session changed.
//!
//! Rows are named by *slots*: 0.. for the shared rows, then one for each row that the session added. Slots ascend in
//! the order of the table. Nothing that a call does costs more than its own changes, whatever the size of the table; an
//! unchanged table is a pointer and three empty lists.
//!
//! Each row also carries a label (pandas' row index). Labels are never shown to the model, but two final states are
//! equal only if they agree in them too. The label of a shared row is its slot less the shared rows before it that were
//! gone when all rows were last renumbered.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::python_compat::array::Array;
use crate::python_compat::integer::Integer;
use crate::python_compat::pattern::Pattern;
use crate::python_compat::timestamp::Timestamp;
use crate::python_compat::{Exception, Value};
use crate::workplace::base_table::{BaseTable, Row};
use crate::workplace::grams::Slots;

/// Which label a new row takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewLabel {
    /// All rows are renumbered from 0.
    RenumberAll,
    /// The new row takes label 0, whatever is there already.
    Zero,
}

/// A shared row that the session removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deleted {
    slot: usize,
    /// Whether the rows have been renumbered since, which closed the gap.
    is_renumbered: bool,
}

#[derive(Clone, Debug)]
struct Added {
    label: usize,
    row: Row,
}

#[derive(Clone, Debug)]
pub(crate) struct Table {
    base: Arc<BaseTable>,
    /// By slot, ascending. None of them is deleted.
    changed: Vec<(usize, Row)>,
    /// By slot, ascending.
    deleted: Vec<Deleted>,
    added: Vec<Added>,
    /// What `changed`, `deleted` and `added` take.
    added_bytes: usize,
    /// Whether pandas would hold all columns as one block; decides an error text only.
    is_single_block: bool,
}

impl Table {
    pub(crate) fn new(base: BaseTable) -> Arc<Self> {
        let base = Arc::new(base);
        Arc::new(Self {
            base,
            changed: Vec::new(),
            deleted: Vec::new(),
            added: Vec::new(),
            added_bytes: 0,
            is_single_block: true,
        })
    }

    pub(crate) fn columns(&self) -> &'static [&'static str] {
        self.base.columns
    }

    pub(crate) fn len(&self) -> usize {
        self.base.rows.len() - self.deleted.len() + self.added.len()
    }

    /// Bytes beyond the shared rows. Texts that rows share count for each of them.
    pub(crate) fn added_bytes(&self) -> usize {
        self.added_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn position_in_deleted(&self, slot: usize) -> Result<usize, usize> {
        self.deleted.binary_search_by_key(&slot, |deleted| deleted.slot)
    }

    fn position_in_changed(&self, slot: usize) -> Result<usize, usize> {
        self.changed.binary_search_by_key(&slot, |(slot, _)| *slot)
    }

    /// Whether the slot holds the shared row as it was.
    fn is_untouched(&self, slot: usize) -> bool {
        slot < self.base.rows.len()
            && self.position_in_changed(slot).is_err()
            && self.position_in_deleted(slot).is_err()
    }

    /// The slots of all rows, in order.
    pub(crate) fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        let mut deleted = self.deleted.iter().map(|deleted| deleted.slot).peekable();
        let num_shared = self.base.rows.len();
        (0..num_shared)
            .filter(move |slot| deleted.next_if_eq(slot).is_none())
            .chain(num_shared..num_shared + self.added.len())
    }

    /// The row in a slot that is not deleted.
    pub(crate) fn row(&self, slot: usize) -> &Row {
        if let Some(added) = slot.checked_sub(self.base.rows.len()) {
            return &self.added[added].row;
        }
        match self.position_in_changed(slot) {
            Ok(position) => &self.changed[position].1,
            Err(_) => &self.base.rows[slot],
        }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.slots().map(|slot| self.row(slot))
    }

    /// The labels of all rows, in order.
    pub(crate) fn labels(&self) -> impl Iterator<Item = usize> + '_ {
        let num_shared = self.base.rows.len();
        let mut renumbered = self.deleted.iter().filter(|deleted| deleted.is_renumbered).peekable();
        let mut num_closed = 0;
        self.slots().map(move |slot| match slot.checked_sub(num_shared) {
            Some(added) => self.added[added].label,
            None => {
                while renumbered.next_if(|deleted| deleted.slot < slot).is_some() {
                    num_closed += 1;
                }
                slot - num_closed
            }
        })
    }

    /// Slots of the shared rows that are gone.
    pub(crate) fn deleted_slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.deleted.iter().map(|deleted| deleted.slot)
    }

    /// Slot, shared row and changed row of each shared row that was changed.
    pub(crate) fn changed_rows(&self) -> impl Iterator<Item = (usize, &Row, &Row)> {
        self.changed.iter().map(|(slot, row)| (*slot, &self.base.rows[*slot], row))
    }

    /// The rows that the session added.
    pub(crate) fn added_rows(&self) -> impl Iterator<Item = &Row> {
        self.added.iter().map(|added| &added.row)
    }

    /// Index of the column that `field` names.
    pub(crate) fn column(&self, field: &Value) -> Option<usize> {
        let field = field.as_str()?;
        self.columns().iter().position(|&column| column == field)
    }

    /// How many cells of a column are text.
    pub(crate) fn num_text(&self, column: usize) -> usize {
        let text = |row: &Row| usize::from(row[column].as_str().is_some());
        let shared = |slot: usize| text(&self.base.rows[slot]);
        let gone: usize = self.deleted.iter().map(|deleted| shared(deleted.slot)).sum();
        let replaced: usize = self.changed.iter().map(|(slot, _)| shared(*slot)).sum();
        let new: usize = self.changed.iter().map(|(_, row)| text(row)).sum();
        let added: usize = self.added.iter().map(|added| text(&added.row)).sum();
        self.base.num_text[column] - gone - replaced + new + added
    }

    /// Slots of the rows whose cell equals `value` (`table[table.column == value]`).
    pub(crate) fn find(&self, column: usize, value: &Value) -> Result<Vec<usize>, Exception> {
        match value {
            Value::Str(id) if column == 0 => Ok(self.find_id(id)),
            _ => self.find_among(&self.slots().collect::<Vec<_>>(), column, value),
        }
    }

    fn find_id(&self, id: &str) -> Vec<usize> {
        let is_it = |row: &Row| row[0].as_str() == Some(id);
        let mut found: Vec<usize> = self.base.slots_of_id(id).filter(|&slot| self.is_untouched(slot)).collect();
        found.extend(self.changed.iter().filter(|(_, row)| is_it(row)).map(|(slot, _)| *slot));
        found.sort_unstable();
        let added = self.added.iter().zip(self.base.rows.len()..);
        found.extend(added.filter(|(added, _)| is_it(&added.row)).map(|(_, slot)| slot));
        found
    }

    /// [`Table::find`] on some of the rows. A list is compared element by element, which needs as
    /// many elements as rows.
    pub(crate) fn find_among(&self, slots: &[usize], column: usize, value: &Value) -> Result<Vec<usize>, Exception> {
        if let Value::List(items) = value {
            let items = Array::new(items)?;
            let items = items.beside_column(slots.len())?;
            let equal = |(slot, item): (&usize, &Value)| self.row(*slot)[column].equals(item).then_some(*slot);
            return Ok(slots.iter().zip(items).filter_map(equal).collect());
        }
        let equal = |slot: &usize| self.row(*slot)[column].equals(value);
        Ok(slots.iter().copied().filter(equal).collect())
    }

    /// `value in table.column.values`.
    pub(crate) fn contains(&self, column: usize, value: &Value) -> Result<bool, Exception> {
        match value {
            Value::Str(id) if column == 0 => Ok(!self.find_id(id).is_empty()),
            Value::List(items) => {
                let cells: Vec<&Value> = self.rows().map(|row| &row[column]).collect();
                Array::new(items)?.is_equal_to_any(cells.into_iter())
            }
            _ => Ok(self.rows().any(|row| row[column].equals(value))),
        }
    }

    /// Slots of the rows of which one of `columns` is text that the pattern occurs in.
    pub(crate) fn search(&self, columns: &[usize], pattern: &Pattern) -> Vec<usize> {
        let matches =
            |row: &Row| columns.iter().any(|&column| row[column].as_str().is_some_and(|text| pattern.is_match(text)));
        let mut candidates = Slots::none(self.base.rows.len());
        for &column in columns {
            candidates.add(&self.base.grams(column).candidates(pattern.literals()));
        }
        self.matching(candidates, |slot| matches(self.row(slot)))
    }

    /// Slots of the rows whose joined text (see [`BaseTable`]), in lower case, contains every word.
    pub(crate) fn search_words(&self, words: &[&str]) -> Vec<usize> {
        let shared = self.base.joined();
        let contains = |text: &str| words.iter().all(|word| text.contains(word));
        let candidates = shared.grams.candidates(words.iter().map(|word| word.as_bytes()));
        self.matching(candidates, |slot| match shared.texts.get(slot) {
            Some(text) if self.position_in_changed(slot).is_err() => contains(text),
            _ => contains(&self.base.joined_text(self.row(slot))),
        })
    }

    /// The slots that match, out of candidates among the shared rows and all rows that the session changed or added.
    fn matching(&self, mut candidates: Slots, matches: impl Fn(usize) -> bool) -> Vec<usize> {
        for (slot, _) in &self.changed {
            candidates.insert(*slot);
        }
        for deleted in &self.deleted {
            candidates.remove(deleted.slot);
        }
        let num_shared = self.base.rows.len();
        candidates.iter().chain(num_shared..num_shared + self.added.len()).filter(|&slot| matches(slot)).collect()
    }

    /// The point in time in a row's cell of the time column.
    pub(crate) fn time(&self, slot: usize) -> Result<Timestamp, Exception> {
        match self.base.times().get(slot) {
            Some(Some(time)) if self.position_in_changed(slot).is_err() => Ok(*time),
            _ => Timestamp::from_value(&self.row(slot)[self.base.time_column]),
        }
    }

    /// The row as a JSON object, columns in order.
    pub(crate) fn record(&self, slot: usize) -> serde_json::Value {
        let row = self.row(slot);
        let mut record = serde_json::Map::with_capacity(row.len());
        for (column, cell) in self.columns().iter().zip(row.iter()) {
            record.insert((*column).to_owned(), cell.to_json());
        }
        record.into()
    }

    /// One cell as `{field: value}`.
    pub(crate) fn field(&self, slot: usize, column: usize) -> serde_json::Value {
        let cell = self.row(slot)[column].to_json();
        serde_json::Map::from_iter([(self.columns()[column].to_owned(), cell)]).into()
    }

    /// Largest value of the id column plus one. Text compares as text: "500" is above "00000499".
    /// A table without rows gives an error as Python's `int(nan)` does.
    pub(crate) fn next_id(&self) -> Result<Integer, Exception> {
        let largest = if self.num_text(0) == self.len() { self.largest_text_id() } else { self.largest_id()? };
        Integer::from_value(largest.unwrap_or(&Value::MISSING)).map(|id| id.successor())
    }

    fn largest_text_id(&self) -> Option<&Value> {
        let shared = self.base.slots_by_id().rev().find(|&slot| self.is_untouched(slot));
        let shared = shared.map(|slot| &self.base.rows[slot][0]);
        let changed = self.changed.iter().map(|(_, row)| &row[0]);
        let added = self.added.iter().map(|added| &added.row[0]);
        shared.into_iter().chain(changed).chain(added).max_by_key(|id| id.as_str())
    }

    /// The largest id where not all of them are text.
    fn largest_id(&self) -> Result<Option<&Value>, Exception> {
        let mut largest: Option<&Value> = None;
        for row in self.rows() {
            let id = &row[0];
            let Some(best) = largest else {
                largest = Some(id);
                continue;
            };
            // A missing id counts as minus infinity.
            let type_of = |v: &Value| if v.is_null() { "float" } else { v.type_name() };
            let order = match (best.is_null(), id.is_null()) {
                (true, true) => Some(Ordering::Equal),
                (true, false) if id.as_number().is_some() => Some(Ordering::Less),
                (false, true) if best.as_number().is_some() => Some(Ordering::Greater),
                _ => best.compare(id),
            };
            match order {
                None => return Err(Exception::unordered(">=", type_of(best), type_of(id))),
                Some(Ordering::Less) => largest = Some(id),
                Some(_) => {}
            }
        }
        Ok(largest)
    }

    /// Appends a row.
    pub(crate) fn push(&mut self, row: Vec<Value>, label: NewLabel) {
        // A number or boolean gives the new column a type of its own, which splits the block.
        let is_typed = |cell: &Value| matches!(cell, Value::Int(_) | Value::Float(_) | Value::Bool(_));
        self.is_single_block &= !row.iter().any(is_typed);
        let row: Row = row.into();
        self.added_bytes += row_bytes(&row);
        self.added.push(Added { label: 0, row });
        if label == NewLabel::RenumberAll {
            for deleted in &mut self.deleted {
                deleted.is_renumbered = true;
            }
            let num_shared = self.base.rows.len() - self.deleted.len();
            for (label, added) in (num_shared..).zip(&mut self.added) {
                added.label = label;
            }
        }
    }

    /// Removes the rows in `slots` (ascending); the others keep their labels.
    pub(crate) fn remove(&mut self, slots: &[usize]) {
        for &slot in slots.iter().rev() {
            if let Some(added) = slot.checked_sub(self.base.rows.len()) {
                self.added_bytes -= row_bytes(&self.added.remove(added).row);
                continue;
            }
            if let Ok(position) = self.position_in_changed(slot) {
                self.added_bytes -= row_bytes(&self.changed.remove(position).1);
            }
            if let Err(position) = self.position_in_deleted(slot) {
                self.deleted.insert(position, Deleted { slot, is_renumbered: false });
                self.added_bytes += size_of::<Deleted>();
            }
        }
    }

    /// Sets one cell in each of `slots`. A list is spread over the rows, so it needs as many
    /// elements as rows; an object is aligned by label, finds none, and leaves missing values.
    pub(crate) fn set(&mut self, slots: &[usize], column: usize, value: &Value) -> Result<(), Exception> {
        if let Value::List(items) = value
            && items.len() != slots.len()
            && items.len() != 1
        {
            return Err(Exception::value(if self.is_single_block {
                "setting an array element with a sequence."
            } else {
                "Must have equal len keys and value when setting with an iterable"
            }));
        }
        for (i, &slot) in slots.iter().enumerate() {
            let cell = match value {
                Value::List(items) => items.get(i).or(items.first()).unwrap_or(&Value::None),
                Value::Dict(_) => &Value::MISSING,
                other => other,
            };
            let mut row = self.row(slot).to_vec();
            row[column] = cell.clone();
            self.replace(slot, row.into());
        }
        Ok(())
    }

    fn replace(&mut self, slot: usize, row: Row) {
        self.added_bytes += row_bytes(&row);
        let place = match slot.checked_sub(self.base.rows.len()) {
            Some(added) => &mut self.added[added].row,
            None => match self.position_in_changed(slot) {
                Ok(position) => &mut self.changed[position].1,
                Err(position) => {
                    self.changed.insert(position, (slot, row));
                    return;
                }
            },
        };
        self.added_bytes -= row_bytes(&std::mem::replace(place, row));
    }

    /// Whether two tables hold the same labels and, as far as `rows_equal` tells, the same rows in the same order.
    pub(crate) fn equals(&self, other: &Self, rows_equal: impl Fn(&[Value], &[Value]) -> bool) -> bool {
        let equal = |a: &Row, b: &Row| Arc::ptr_eq(a, b) || rows_equal(a, b);
        if self.len() != other.len() {
            return false;
        }
        if !Arc::ptr_eq(&self.base, &other.base) || self.deleted != other.deleted {
            return self.labels().eq(other.labels()) && self.rows().zip(other.rows()).all(|(a, b)| equal(a, b));
        }
        // The same shared rows are left, so only rows that one of the two changed or added can differ.
        let here = self.changed.iter().all(|(slot, row)| equal(row, other.row(*slot)));
        here && other.changed.iter().all(|(slot, row)| equal(self.row(*slot), row))
            && self.added.iter().zip(&other.added).all(|(a, b)| a.label == b.label && equal(&a.row, &b.row))
    }
}

/// Memory behind a row and its place in a list.
fn row_bytes(row: &Row) -> usize {
    size_of::<Added>() + row.iter().map(Value::num_bytes).sum::<usize>()
}

#[cfg(test)]
mod tests;
