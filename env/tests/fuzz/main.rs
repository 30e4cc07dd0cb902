//! The fuzz targets as tests: their seeds and small changes of them. `env/fuzz` runs the same targets for as long as one
//! likes, led by coverage.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

mod calls;
mod records;
mod seeds;

use proptest::prelude::*;
use proptest::sample::Index;

/// The folder of recorded calls, beside the repository.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");

/// What is done to a seed.
#[derive(Clone, Debug)]
enum Change {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index, Index),
    Word(Index, Index),
    /// What follows a place in another seed takes the place of what follows one here.
    Cross(Index, Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        (index(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        (index(), index()).prop_map(|(at, end)| Change::Remove(at, end)),
        (index(), index()).prop_map(|(at, word)| Change::Word(at, word)),
        (index(), index(), index()).prop_map(|(at, other, from)| Change::Cross(at, other, from)),
    ]
}

fn apply(change: &Change, input: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[String]) {
    // One more place than there are bytes: the end.
    let place = |index: &Index, input: &[u8]| index.index(input.len() + 1);
    match change {
        Change::Replace(at, byte) => {
            let at = place(at, input);
            input.splice(at..(at + 1).min(input.len()), [*byte]);
        }
        Change::Insert(at, byte) => input.insert(place(at, input), *byte),
        Change::Remove(at, end) => {
            let at = place(at, input);
            let end = at + end.index(input.len() - at + 1).min(40);
            input.drain(at..end);
        }
        Change::Word(at, word) => {
            let at = place(at, input);
            input.splice(at..at, words[word.index(words.len())].bytes());
        }
        Change::Cross(at, other, from) => {
            let at = place(at, input);
            let other = &seeds[other.index(seeds.len())];
            input.splice(at.., other[place(from, other)..].iter().copied());
        }
    }
}

/// Seeds as they are, and changed in a few places.
fn run(check: fn(&[u8]), seeds: &[Vec<u8>], num_changed: u32) {
    seeds.iter().take(100).for_each(|seed| check(seed));
    let words = seeds::words();
    let config = ProptestConfig { cases: num_changed, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(seed: Index, changes in prop::collection::vec(change(), 1..6))| {
        let mut input = seeds[seed.index(seeds.len())].clone();
        for change in &changes {
            apply(change, &mut input, seeds, &words);
        }
        println!("{}", String::from_utf8_lossy(&input));
        check(&input);
    });
}

#[test]
fn calls() {
    run(calls::check, &seeds::calls(), 600);
}

#[test]
fn records() {
    run(records::check, &seeds::records(), 600);
}
