//! Learning rate over optimizer steps.
//!
//! With step `k` counted from 0, warm-up `w`, decay end `d`, from `i` over `lr` to `m`:
//!
//!   k <= w:  i + (lr - i) * k / w            (skipped when w = 0)
//!   k > d:   m
//!   else:    m + (lr - m) * s(x) with x = (k - w) / (d - w), s = 1 - x (linear) or (1 + cos(pi x)) / 2 (cosine)
//!
//! A constant schedule stays at `lr` after warm-up, whatever `m` and `d`. These are Megatron's formulas; the first
//! update really uses `i`.

use crate::config::{LrDecayStyle, OptimizerConfig, SchedulerConfig, SftConfig};

/// Learning rate of a step of reinforcement learning, counted from 0.
pub fn learning_rate(optimizer: &OptimizerConfig, scheduler: &SchedulerConfig, step: u64) -> f64 {
    let schedule = LrSchedule {
        warmup_init: scheduler.lr_warmup_init,
        warmup_steps: scheduler.lr_warmup_iters as u64,
        lr: optimizer.lr,
        min_lr: optimizer.min_lr,
        decay_style: scheduler.lr_decay_style,
        decay_steps: scheduler.lr_decay_iters as u64,
    };
    schedule.lr_at(step)
}

/// Learning rate of a step of the supervised warm start, counted from 0. Its warm-up reaches `lr` without a step at 0,
/// which would be a step for nothing.
pub fn sft_learning_rate(sft: &SftConfig, step: u64) -> f64 {
    let warmup_steps = sft.lr_warmup_iters as u64;
    let schedule = LrSchedule {
        warmup_init: sft.lr / (warmup_steps + 1) as f64,
        warmup_steps,
        lr: sft.lr,
        min_lr: sft.min_lr,
        decay_style: sft.lr_decay_style,
        decay_steps: sft.lr_decay_iters.unwrap_or(sft.max_num_steps) as u64,
    };
    schedule.lr_at(step)
}

/// A learning-rate schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LrSchedule {
    /// Learning rate of step 0 when there is a warm-up.
    pub warmup_init: f64,
    pub warmup_steps: u64,
    /// Learning rate after warm-up.
    pub lr: f64,
    /// Learning rate at the end of the decay.
    pub min_lr: f64,
    pub decay_style: LrDecayStyle,
    /// Step at which the decay ends.
    pub decay_steps: u64,
}

impl LrSchedule {
    /// Learning rate of the optimizer step with this 0-based index.
    pub fn lr_at(&self, step: u64) -> f64 {
        if self.warmup_steps > 0 && step <= self.warmup_steps {
            let progress = step as f64 / self.warmup_steps as f64;
            return self.warmup_init + (self.lr - self.warmup_init) * progress;
        }
        if self.decay_style == LrDecayStyle::Constant {
            return self.lr;
        }
        // Also where there is no step between warm-up and the end of the decay.
        if step > self.decay_steps || self.decay_steps <= self.warmup_steps {
            return self.min_lr;
        }
        let progress = (step - self.warmup_steps) as f64 / (self.decay_steps - self.warmup_steps) as f64;
        let share = match self.decay_style {
            LrDecayStyle::Constant => 1.0,
            LrDecayStyle::Linear => 1.0 - progress,
            LrDecayStyle::Cosine => (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0,
        };
        self.min_lr + (self.lr - self.min_lr) * share
    }
}
