//! A second opinion on finished calls, beside the reward. The reward follows the reference to the letter, which pays for
//! some things that are luck and withholds payment for some that are right:
//!
//! - what is made and undone again costs nothing, and a number passes for a missing value: the stricter scoring takes
//!   these rewards away;
//! - two mails sent in another order, `2023-12-01T09:00:00` for `2023-12-01 09:00:00` or `030` for `30` earn nothing: the
//!   stricter scoring gives credit for them.
//!
//! It compares net effects instead of final tables. It is for measuring, and takes no part in training.

use serde::{Deserialize, Serialize};

use crate::environment::{Offices, Outcome};
use crate::error::EnvError;
use crate::task::record::Task;
use crate::tool::ToolCall;
use crate::workplace::Workplace;

/// The stricter scoring's verdict on one list of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrictOutcome {
    /// Whether the calls come to the same as the ground truth.
    pub same_effects: bool,
    /// Writes that the end state does not need (made and undone, overwritten, corrected), beyond those of the ground
    /// truth.
    pub num_superfluous: usize,
    /// Whether the ground truth comes to nothing, so that doing nothing is right.
    pub do_nothing: bool,
}

impl StrictOutcome {
    /// 1 if the calls come to the same as the ground truth without detours, else 0.
    pub fn reward(&self) -> f64 {
        if self.same_effects && self.num_superfluous == 0 { 1.0 } else { 0.0 }
    }
}

impl Workplace {
    /// Judges calls by what they come to. Like [`Workplace::verify`] it replays both lists on fresh tables.
    pub fn score_strictly(&self, predicted: &[ToolCall], ground_truth: &[ToolCall]) -> StrictOutcome {
        let (effects, num_writes) = self.effects(predicted);
        let (wanted, num_wanted_writes) = self.effects(ground_truth);
        // One call can change several rows when ids were made equal, so these differences may be below zero.
        let superfluous = num_writes.saturating_sub(effects.count());
        let allowed = num_wanted_writes.saturating_sub(wanted.count());
        StrictOutcome {
            same_effects: effects == wanted,
            num_superfluous: superfluous.saturating_sub(allowed),
            do_nothing: wanted.count() == 0,
        }
    }
}

impl Offices {
    /// [`Workplace::score_strictly`] in the task's office.
    ///
    /// # Errors
    /// The task's office is unknown or its tables cannot be read.
    pub fn score_strictly(&self, task: &Task, calls: &[ToolCall]) -> Result<StrictOutcome, EnvError> {
        Ok(self.workplace(task)?.score_strictly(calls, &task.ground_truth))
    }
}

/// Both scorings of a set of samples side by side. Accuracies are means over the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StrictReport {
    pub num_samples: usize,
    /// Mean reward.
    pub accuracy: f64,
    /// Mean reward of the stricter scoring.
    pub strict_accuracy: f64,
    /// Mean reward for doing nothing.
    pub do_nothing_accuracy: f64,
    /// Mean reward of the stricter scoring for doing nothing.
    pub strict_do_nothing_accuracy: f64,
    /// Share of the samples that are rewarded, but not by the stricter scoring.
    pub only_lenient: f64,
    /// Share of the samples that only the stricter scoring rewards.
    pub only_strict: f64,
    /// Mean number of writes that the end state does not need.
    pub mean_superfluous_writes: f64,
}

impl StrictReport {
    /// Summarises the verdicts of both scorings on each sample.
    pub fn new(verdicts: impl IntoIterator<Item = (Outcome, StrictOutcome)>) -> Self {
        let mut sums = Self::default();
        for (outcome, strict) in verdicts {
            let is = |flag: bool| f64::from(u8::from(flag));
            let (lenient, strictly) = (outcome.reward > 0.0, strict.reward() > 0.0);
            sums.num_samples += 1;
            sums.accuracy += outcome.reward;
            sums.strict_accuracy += strict.reward();
            sums.do_nothing_accuracy += is(outcome.do_nothing);
            sums.strict_do_nothing_accuracy += is(strict.do_nothing);
            sums.only_lenient += is(lenient && !strictly);
            sums.only_strict += is(strictly && !lenient);
            sums.mean_superfluous_writes += strict.num_superfluous as f64;
        }
        let n = sums.num_samples.max(1) as f64;
        for sum in [
            &mut sums.accuracy,
            &mut sums.strict_accuracy,
            &mut sums.do_nothing_accuracy,
            &mut sums.strict_do_nothing_accuracy,
            &mut sums.only_lenient,
            &mut sums.only_strict,
            &mut sums.mean_superfluous_writes,
        ] {
            *sum /= n;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::generate;

    fn workplace() -> Workplace {
        Workplace::new(generate::office(3))
    }

    fn mail(recipient: &str) -> ToolCall {
        ToolCall::new("email_send_email", &json!({"recipient": recipient, "subject": "s", "body": "b"}))
    }

    fn event(start: &str, duration: serde_json::Value) -> ToolCall {
        let arguments = json!({
            "event_name": "Review", "participant_email": "kim@example.com", "event_start": start, "duration": duration,
        });
        ToolCall::new("calendar_create_event", &arguments)
    }

    fn delete_event(id: &str) -> ToolCall {
        ToolCall::new("calendar_delete_event", &json!({"event_id": id}))
    }

    fn rename_event(id: &str, name: &str) -> ToolCall {
        ToolCall::new("calendar_update_event", &json!({"event_id": id, "field": "event_name", "new_value": name}))
    }

    fn customer(phone: serde_json::Value) -> ToolCall {
        let arguments = json!({
            "customer_name": "Kim", "assigned_to_email": "a@b.cd", "status": "Lead", "customer_phone": phone,
        });
        ToolCall::new("customer_relationship_manager_add_customer", &arguments)
    }

    /// Rewards of the parity scorer and of the stricter one.
    fn rewards(predicted: &[ToolCall], ground_truth: &[ToolCall]) -> (bool, bool) {
        let workplace = workplace();
        let strict = workplace.score_strictly(predicted, ground_truth);
        (workplace.verify(predicted, ground_truth).unwrap(), strict.reward() > 0.0)
    }

    #[test]
    fn the_order_of_new_rows_does_not_matter() {
        let (a, b) = (mail("a@example.com"), mail("b@example.com"));
        assert_eq!(rewards(&[b.clone(), a.clone()], &[a.clone(), b.clone()]), (false, true));
        assert_eq!(rewards(&[a.clone(), a.clone()], &[a.clone(), b]), (false, false));
        assert_eq!(rewards(&[a.clone(), a.clone()], &[a]), (false, false));
    }

    #[test]
    fn equal_dates_and_durations_are_equal() {
        let wanted = [event("2023-12-01 09:00:00", json!("30"))];
        assert_eq!(rewards(&[event("2023-12-01T09:00:00", json!("030"))], &wanted), (false, true));
        assert_eq!(rewards(&[event("2023-12-01 09:00:00", json!(30))], &wanted), (false, true));
        assert_eq!(rewards(&[event("2023-12-01 10:00:00", json!("30"))], &wanted), (false, false));
    }

    #[test]
    fn numbers_are_no_missing_values() {
        assert_eq!(rewards(&[customer(json!(5_551_234))], &[customer(json!(null))]), (true, false));
        assert_eq!(rewards(&[customer(json!(5_551_234))], &[customer(json!("5551234"))]), (false, true));
    }

    #[test]
    fn what_is_undone_costs_the_reward() {
        // A row that is made and removed leaves no trace for the parity scorer.
        let made_and_removed = [event("2023-12-01 09:00:00", json!("30")), delete_event("00000300")];
        assert_eq!(rewards(&made_and_removed, &[]), (true, false));
        let outcome = workplace().score_strictly(&made_and_removed, &[]);
        assert_eq!(outcome, StrictOutcome { same_effects: true, num_superfluous: 2, do_nothing: true });

        let twice = [rename_event("00000005", "Zebra one"), rename_event("00000005", "Zebra two")];
        let once = [rename_event("00000005", "Zebra two")];
        assert_eq!(rewards(&twice, &once), (true, false));
        // Unless the ground truth goes the same way.
        assert_eq!(rewards(&twice, &twice), (true, true));
        // A call that changes nothing is no detour.
        let deleted_twice = [delete_event("00000005"), delete_event("00000005")];
        assert_eq!(rewards(&deleted_twice, &deleted_twice[..1]), (true, true));
    }

    #[test]
    fn both_scorings_side_by_side() {
        let outcome = |reward, do_nothing| Outcome { reward, do_nothing };
        let strict =
            |same_effects, num_superfluous, do_nothing| StrictOutcome { same_effects, num_superfluous, do_nothing };
        let report = StrictReport::new([
            (outcome(1.0, true), strict(true, 2, true)),
            (outcome(0.0, false), strict(true, 0, false)),
            (outcome(1.0, false), strict(true, 0, false)),
            (outcome(0.0, false), strict(false, 0, false)),
        ]);
        assert_eq!(
            report,
            StrictReport {
                num_samples: 4,
                accuracy: 0.5,
                strict_accuracy: 0.5,
                do_nothing_accuracy: 0.25,
                strict_do_nothing_accuracy: 0.25,
                only_lenient: 0.25,
                only_strict: 0.25,
                mean_superfluous_writes: 0.5,
            }
        );
        assert_eq!(StrictReport::new([]), StrictReport::default());
    }
}
