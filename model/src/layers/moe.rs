//! Mixture of experts with a sigmoid router and a selection bias (DeepSeek-V3's routing, as Nemotron 3 uses it).
//!
//! Selection looks at `sigmoid(logit) + bias`, weights at the sigmoid alone. Selection happens on the host and is
//! not differentiable; the weights are.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData, activation::sigmoid};

use super::{Linear, LinearMaps, Mlp};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::parallel::{ForwardContext, LayerShard};
use crate::parameters::{Initialization, Matrix, ParameterMut, Visitor, WeightBuilder, WeightStorage, join};

/// Added to the sum of chosen weights before dividing, as the family does.
const WEIGHT_SUM_EPSILON: f64 = 1e-20;

/// An MoE block.
#[derive(Clone, Debug)]
pub struct Moe {
    /// Always in full: it decides.
    gate: Matrix,
    correction_bias: Tensor<1>,
    experts: Vec<Mlp>,
    shared_expert: Option<Mlp>,
    latent: Option<(Linear, Linear)>,
    routing: Routing,
}

/// The router's constants.
#[derive(Clone, Debug)]
struct Routing {
    experts_per_token: usize,
    num_expert_groups: usize,
    chosen_groups: usize,
    normalize: bool,
    scale: f64,
}

impl Moe {
    /// Builds the block with its tensors under `path`.
    pub fn build(
        path: &str,
        config: &ModelConfig,
        shard: &LayerShard,
        weights: &mut WeightBuilder<'_>,
    ) -> Result<Self, ModelError> {
        let normal = Initialization::Normal(config.initializer_range);
        let (hidden, experts) = (config.hidden_size, config.n_routed_experts);
        let expert_hidden = config.moe_latent_size.unwrap_or(hidden);
        let gate = weights.tensor(&join(path, "gate.weight"), [experts, hidden], normal)?;
        let gate = Matrix::store(gate, WeightStorage::Full);
        let correction_bias =
            weights.tensor(&join(path, "gate.e_score_correction_bias"), [experts], Initialization::Zeros)?;
        let latent = match config.moe_latent_size {
            Some(latent) => Some((
                Linear::build(&join(path, "fc1_latent_proj"), [latent, hidden], false, weights)?,
                Linear::build(&join(path, "fc2_latent_proj"), [hidden, latent], false, weights)?,
            )),
            None => None,
        };
        let experts = (0..experts)
            .map(|e| {
                let path = join(path, &format!("experts.{e}"));
                Mlp::build_sized(&path, expert_hidden, shard.expert_width, config, weights)
            })
            .collect::<Result<_, _>>()?;
        let shared_expert = if config.n_shared_experts > 0 {
            let width = shard.shared_expert_width;
            Some(Mlp::build(&join(path, "shared_experts"), config, width, weights)?)
        } else {
            None
        };
        Ok(Self {
            gate,
            correction_bias,
            experts,
            shared_expert,
            latent,
            routing: Routing {
                experts_per_token: config.num_experts_per_tok,
                num_expert_groups: config.n_group,
                chosen_groups: config.topk_group,
                normalize: config.norm_topk_prob,
                scale: config.routed_scaling_factor,
            },
        })
    }

    /// # Shapes
    /// - x: `[batch, tokens, hidden]`, in and out
    pub fn forward(&self, x: Tensor<3>, context: ForwardContext<'_>) -> Tensor<3> {
        let x = context.enter(x);
        let [batch, tokens, hidden] = x.dims();
        let rows = batch * tokens;
        let chosen_per_row = self.routing.experts_per_token;

        let scores = sigmoid(self.gate.linear(x.clone(), None));
        let scores = scores.reshape([rows, self.experts.len()]);
        let chosen = self.choose(&scores);
        let device = x.device();
        let indices = TensorData::new(chosen.iter().map(|&e| e as i64).collect(), [rows, chosen_per_row]);
        let mut weights = scores.gather(1, Tensor::<2, Int>::from_data(indices, &device));
        if self.routing.normalize {
            weights = weights.clone() / (weights.sum_dim(1) + WEIGHT_SUM_EPSILON);
        }
        let weights = (weights * self.routing.scale).reshape([rows * chosen_per_row, 1]);

        let input = match &self.latent {
            Some((down, _)) => down.forward(x.clone()),
            None => x.clone(),
        };
        let width = input.dims()[2];
        let input = input.reshape([rows, width]);
        let mut routed = Tensor::<2>::zeros([rows, width], (&device, input.dtype()));
        for (index, expert) in self.experts.iter().enumerate() {
            let slots: Vec<i64> = (0..chosen.len()).filter(|&s| chosen[s] == index).map(|s| s as i64).collect();
            if slots.is_empty() {
                continue;
            }
            let count = slots.len();
            let token_rows: Vec<i64> = slots.iter().map(|s| s / chosen_per_row as i64).collect();
            let to_tensor = |v: Vec<i64>| Tensor::<1, Int>::from_data(TensorData::new(v, [count]), &device);
            let (slots, token_rows) = (to_tensor(slots), to_tensor(token_rows));
            let output = expert.forward(input.clone().select(0, token_rows.clone()).unsqueeze_dim(0), context);
            let output = output.reshape([count, width]) * weights.clone().select(0, slots);
            routed = routed.select_assign(0, token_rows, output, IndexingUpdateOp::Add);
        }
        let mut output = routed.reshape([batch, tokens, width]);
        if let Some((_, up)) = &self.latent {
            output = up.forward(output);
        }
        debug_assert_eq!(output.dims(), [batch, tokens, hidden]);
        if let Some(shared) = &self.shared_expert {
            output = output + shared.forward(x, context);
        }
        context.leave(output)
    }

    /// Experts of every row, best first: `rows * experts_per_token` indices.
    fn choose(&self, scores: &Tensor<2>) -> Vec<usize> {
        let num_experts = self.experts.len();
        let read = |data: TensorData| data.iter::<f64>().collect::<Vec<_>>();
        let scores = read(scores.to_data());
        let bias = read(self.correction_bias.to_data());
        scores
            .chunks(num_experts)
            .flat_map(|row| {
                let biased: Vec<f64> = row.iter().zip(&bias).map(|(s, b)| s + b).collect();
                self.routing.choose_row(&biased)
            })
            .collect()
    }

    /// Shows the linear maps of all experts and those around them under their paths; the router is none of them.
    pub fn linear_maps(&mut self, path: &str, show: &mut LinearMaps<'_>) {
        if let Some((down, up)) = &mut self.latent {
            show(&join(path, "fc1_latent_proj"), down);
            show(&join(path, "fc2_latent_proj"), up);
        }
        for (index, expert) in self.experts.iter_mut().enumerate() {
            expert.linear_maps(&join(path, &format!("experts.{index}")), show);
        }
        if let Some(shared) = &mut self.shared_expert {
            shared.linear_maps(&join(path, "shared_experts"), show);
        }
    }

    /// Visits the block's parameters.
    pub fn visit_mut(&mut self, path: &str, visitor: &mut Visitor<'_>) {
        self.gate.visit_mut(&join(path, "gate.weight"), visitor);
        visitor(&join(path, "gate.e_score_correction_bias"), ParameterMut::Vector(&mut self.correction_bias));
        if let Some((down, up)) = &mut self.latent {
            down.visit_mut(&join(path, "fc1_latent_proj"), visitor);
            up.visit_mut(&join(path, "fc2_latent_proj"), visitor);
        }
        for (index, expert) in self.experts.iter_mut().enumerate() {
            expert.visit_mut(&join(path, &format!("experts.{index}")), visitor);
        }
        if let Some(shared) = &mut self.shared_expert {
            shared.visit_mut(&join(path, "shared_experts"), visitor);
        }
    }
}

impl Routing {
    /// The experts of one row by biased score: only the best groups compete when there are several.
    fn choose_row(&self, biased: &[f64]) -> Vec<usize> {
        let group_size = biased.len() / self.num_expert_groups;
        let mut groups: Vec<usize> = (0..self.num_expert_groups).collect();
        if self.num_expert_groups > 1 {
            let group_score = |group: usize| {
                let mut members = biased[group * group_size..(group + 1) * group_size].to_vec();
                members.sort_by(|a, b| b.total_cmp(a));
                members.iter().take(2).sum::<f64>()
            };
            groups.sort_by(|&a, &b| group_score(b).total_cmp(&group_score(a)).then(a.cmp(&b)));
            groups.truncate(self.chosen_groups);
        }
        let mut experts: Vec<usize> =
            groups.iter().flat_map(|group| group * group_size..(group + 1) * group_size).collect();
        experts.sort_by(|&a, &b| biased[b].total_cmp(&biased[a]).then(a.cmp(&b)));
        experts.truncate(self.experts_per_token);
        experts
    }
}
