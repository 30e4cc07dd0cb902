//! A table of shared rows and changes against a plain list of rows that does the same.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::python_compat::pattern;
use crate::workplace::base_table::ColumnUses;

const COLUMNS: [&str; 3] = ["id", "name", "note"];
const USES: ColumnUses = ColumnUses { time: 2, joined: &[1, 2] };

/// The table as the reference has it: all rows and labels, copied.
#[derive(Clone, Debug)]
struct Plain {
    labels: Vec<usize>,
    rows: Vec<Vec<Value>>,
}

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<Value>, bool),
    /// Removes the rows whose id is that of the row at this position.
    Remove(usize),
    /// Sets a cell in the rows whose id is that of the row at this position.
    Set(usize, usize, Value),
}

impl Plain {
    fn find(&self, column: usize, value: &Value) -> Vec<usize> {
        (0..self.rows.len()).filter(|&position| self.rows[position][column].equals(value)).collect()
    }

    fn id(&self, position: usize) -> Option<Value> {
        let position = position.checked_rem(self.rows.len())?;
        Some(self.rows[position][0].clone())
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Push(row, renumbers) => {
                self.rows.push(row.clone());
                self.labels.push(0);
                if *renumbers {
                    self.labels = (0..self.rows.len()).collect();
                }
            }
            Step::Remove(position) => {
                let Some(id) = self.id(*position) else { return };
                for position in self.find(0, &id).into_iter().rev() {
                    self.rows.remove(position);
                    self.labels.remove(position);
                }
            }
            Step::Set(position, column, value) => {
                let Some(id) = self.id(*position) else { return };
                for position in self.find(0, &id) {
                    self.rows[position][*column] = value.clone();
                }
            }
        }
    }
}

/// Does the step that [`Plain::apply`] does on `plain`, before it is done there.
fn apply(table: &mut Table, plain: &Plain, step: &Step) {
    match step {
        Step::Push(row, true) => table.push(row.clone(), NewLabel::RenumberAll),
        Step::Push(row, false) => table.push(row.clone(), NewLabel::Zero),
        Step::Remove(position) => {
            if let Some(id) = plain.id(*position) {
                let slots = table.find(0, &id).unwrap();
                table.remove(&slots);
            }
        }
        Step::Set(position, column, value) => {
            if let Some(id) = plain.id(*position) {
                let slots = table.find(0, &id).unwrap();
                table.set(&slots, *column, value).unwrap();
            }
        }
    }
}

fn base() -> (Arc<Table>, Plain) {
    let name = |i: usize| ["Kim Lee", "kim", "\u{212a}im", "Ada", "Sam Smith", "Quarterly Review"][i % 6];
    let note = |i: usize| if i % 7 == 3 { Value::MISSING } else { format!("2023-11-{:02}", 1 + i % 28).into() };
    let row = |i: usize| vec![format!("{i:08}").into(), name(i).into(), note(i)];
    let rows: Vec<Vec<Value>> = (0..70).map(row).collect();
    let shared = rows.iter().map(|row| row.clone().into()).collect();
    (Table::new(BaseTable::new(&COLUMNS, shared, USES)), Plain { labels: (0..70).collect(), rows })
}

fn cell() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => prop::sample::select(vec!["kim", "Ada", "QUARTERLY review", "2023-12-01", "00000005", "7", "ß", ""]).prop_map(Value::from),
        1 => (0i128..9).prop_map(Value::Int),
        1 => Just(Value::MISSING),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let id = prop_oneof![3 => (0u32..90).prop_map(|id| Value::from(format!("{id:08}"))), 1 => cell()];
    prop_oneof![
        (id, cell(), cell(), any::<bool>()).prop_map(|(id, a, b, renumbers)| Step::Push(vec![id, a, b], renumbers)),
        (0usize..200).prop_map(Step::Remove),
        (0usize..200, 0usize..3, cell()).prop_map(|(position, column, value)| Step::Set(position, column, value)),
    ]
}

/// Cells as text, so that missing ones compare.
fn texts<'a>(rows: impl Iterator<Item = &'a [Value]>) -> Vec<String> {
    rows.map(|row| format!("{row:?}")).collect()
}

fn rows_equal(a: &[Value], b: &[Value]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.equals(b) || a.is_null() && b.is_null())
}

/// Positions of the rows in these slots.
fn positions(table: &Table, slots: &[usize]) -> Vec<usize> {
    let all: Vec<usize> = table.slots().collect();
    slots.iter().map(|slot| all.binary_search(slot).unwrap()).collect()
}

proptest! {
    #[test]
    fn does_what_a_list_of_rows_does(steps in prop::collection::vec(step(), 0..25), sought in cell()) {
        let (shared, mut plain) = base();
        let mut table = (*shared).clone();
        for step in &steps {
            apply(&mut table, &plain, step);
            plain.apply(step);
        }
        prop_assert_eq!(table.len(), plain.rows.len());
        prop_assert_eq!(table.labels().collect::<Vec<_>>(), plain.labels.clone());
        prop_assert_eq!(texts(table.rows().map(|row| &**row)), texts(plain.rows.iter().map(|row| &**row)));
        for column in 0..3 {
            let num_text = plain.rows.iter().filter(|row| row[column].as_str().is_some()).count();
            prop_assert_eq!(table.num_text(column), num_text);
            prop_assert_eq!(positions(&table, &table.find(column, &sought).unwrap()), plain.find(column, &sought));
            prop_assert_eq!(table.contains(column, &sought).unwrap(), !plain.find(column, &sought).is_empty());
        }
        // The shared rows are as they were.
        prop_assert_eq!(texts(shared.rows().map(|row| &**row)), texts(base().1.rows.iter().map(|row| &**row)));
    }

    #[test]
    fn searches_find_what_a_look_at_every_row_finds(
        steps in prop::collection::vec(step(), 0..12),
        pattern in prop::sample::select(vec!["kim", "a", "", "quarterly", "k.m", "S.ith", "view$", "2023-11-0", "sam smith"]),
        words in prop::collection::vec(prop::sample::select(vec!["kim", "smith", "a", "2023-11", "review", "ß"]), 1..3),
    ) {
        let (shared, mut plain) = base();
        let mut table = (*shared).clone();
        for step in &steps {
            apply(&mut table, &plain, step);
            plain.apply(step);
        }
        let compiled = pattern::compile(&pattern.into()).unwrap();
        let matches = |row: &&Vec<Value>| [1, 2].iter().any(|&c| row[c].as_str().is_some_and(|text| compiled.is_match(text)));
        let expected: Vec<usize> = (0..plain.rows.len()).filter(|&i| matches(&&plain.rows[i])).collect();
        prop_assert_eq!(positions(&table, &table.search(&[1, 2], &compiled)), expected);
        let joined = |row: &Vec<Value>| format!("{} {}", row[1].text(), row[2].text()).to_lowercase();
        let has_all = |row: &Vec<Value>| words.iter().all(|word| joined(row).contains(word));
        let expected: Vec<usize> = (0..plain.rows.len()).filter(|&i| has_all(&plain.rows[i])).collect();
        prop_assert_eq!(positions(&table, &table.search_words(&words)), expected);
    }

    #[test]
    fn the_next_id_is_that_of_all_rows(steps in prop::collection::vec(step(), 0..25)) {
        let (shared, mut plain) = base();
        let mut table = (*shared).clone();
        for step in &steps {
            apply(&mut table, &plain, step);
            plain.apply(step);
        }
        // A table that shares nothing looks at every row.
        let rows = plain.rows.iter().map(|row| row.clone().into()).collect();
        let copied = Table::new(BaseTable::new(&COLUMNS, rows, USES));
        let text = |id: Result<Integer, Exception>| id.map(|id| id.to_string()).map_err(|exception| exception.text);
        prop_assert_eq!(text(table.next_id()), text(copied.next_id()));
        let walked = copied.largest_id().map(|id| id.map(|id| format!("{id:?}"))).map_err(|exception| exception.text);
        if table.num_text(0) == table.len() {
            prop_assert_eq!(Ok(table.largest_text_id().map(|id| format!("{id:?}"))), walked);
        }
    }

    #[test]
    fn equality_is_that_of_labels_and_rows(
        a in prop::collection::vec(step(), 0..6),
        b in prop::collection::vec(step(), 0..6),
        keep in 0usize..7,
    ) {
        // Often the same steps, so that both outcomes occur.
        let b: Vec<Step> = a.iter().take(keep).chain(b.iter().take(6 - keep.min(6))).cloned().collect();
        let (shared, plain) = base();
        let run = |steps: &[Step]| {
            let (mut table, mut plain) = ((*shared).clone(), plain.clone());
            for step in steps {
                apply(&mut table, &plain, step);
                plain.apply(step);
            }
            (table, plain)
        };
        let ((table_a, plain_a), (table_b, plain_b)) = (run(&a), run(&b));
        let expected = plain_a.labels == plain_b.labels
            && plain_a.rows.iter().zip(&plain_b.rows).all(|(a, b)| rows_equal(a, b));
        prop_assert_eq!(table_a.equals(&table_b, rows_equal), expected);
        prop_assert!(table_a.equals(&run(&a).0, rows_equal));
    }
}

#[test]
fn a_value_set_in_many_rows_is_held_once() {
    let (mut table, _) = base();
    let table = Arc::make_mut(&mut table);
    let inside = Value::List(vec!["x".into(); 3].into());
    let slots: Vec<usize> = (0..10).collect();
    table.set(&slots, 2, &Value::List(vec![inside].into())).unwrap();
    let held = |slot: usize| match &table.row(slot)[2] {
        Value::List(items) => Arc::as_ptr(items),
        other => panic!("{other:?}"),
    };
    assert!(slots.iter().all(|&slot| held(slot) == held(0)));
}
