//! The plan's arithmetic, by hand and by its own promises.

use std::path::Path;

use nemo_model::config::ModelConfig;

use super::*;

/// The published shape of the 9B model, as a change of a small one's file.
fn nano_9b() -> ModelConfig {
    let small = include_str!("../../../configs/models/hybrid_103m.json");
    let mut shape: serde_json::Value = serde_json::from_str(small).unwrap();
    for (key, value) in [
        ("hidden_size", 4480),
        ("num_hidden_layers", 56),
        ("intermediate_size", 15680),
        ("mamba_num_heads", 128),
        ("mamba_head_dim", 80),
        ("ssm_state_size", 128),
        ("num_attention_heads", 40),
        ("num_key_value_heads", 8),
        ("head_dim", 128),
        ("vocab_size", 131_072),
    ] {
        shape[key] = value.into();
    }
    shape["torch_dtype"] = "bfloat16".into();
    shape["hybrid_override_pattern"] = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-".into();
    ModelConfig::from_json_text(&shape.to_string(), Path::new("config.json")).unwrap()
}

fn input(model: &ModelConfig, gib: usize) -> PlanInput<'_> {
    PlanInput {
        model,
        workload: Workload {
            shared_prefix: 3840,
            prompt: 4096,
            longest_sequence: 8192,
            leaf_tokens: 256,
            max_open_sequences: 128,
            max_batch_tokens: 8192,
            chunk_tokens: 4096,
            prompts_per_step: 64,
            sequences_per_step: 1024,
        },
        machine: Machine { device_memory: gib << 30, devices: 1, threads: 0 },
        settings: Settings {
            element_bytes: ElementBytes::BFLOAT16,
            optimizer: OptimizerDtypes::default(),
            mapped_bytes: 0,
            trains: true,
            keeps_reference: false,
            memory_utilization: 0.8,
            activation_checkpointing: false,
        },
        adapter: None,
    }
}

/// Published figures of the 9B model: parameters, 141.6 MB of state and 16 KiB of keys and values per token.
#[test]
fn sizes_are_the_published_ones() {
    let model = nano_9b();
    let shard = Shard::whole(&model);
    assert_eq!(shard.parameters, 8_888_227_328);
    assert_eq!(shard.count(nemo_model::config::LayerKind::Mamba2) * shard.inner * shard.state_size * 4, 141_557_760);
    assert_eq!(shard.keys_values() * 2, 16 << 10);
    // Two bytes of weight, four of master, eight of moments; four more of gradient on the way back.
    let plan = Plan::new(&input(&model, 200)).unwrap();
    assert_eq!(plan.resident_bytes(), 14 * shard.parameters);
    let backward = plan.phase("backward").unwrap();
    assert_eq!(backward.items[0], Item::new("gradient sums", 4 * shard.parameters));
}

/// Half of everything that is cut, and key heads on several devices where there are fewer of them.
#[test]
fn devices_hold_parts() {
    let model = nano_9b();
    let (whole, half) = (Shard::whole(&model), Shard::new(&model, 2).unwrap());
    assert_eq!((2 * half.state(), 2 * half.keys_values()), (whole.state(), whole.keys_values()));
    // What is not cut: the norm of every block and the last.
    assert_eq!(2 * half.parameters, whole.parameters + 57 * 4480);
    assert_eq!(half.hidden, whole.hidden);
    assert!(Shard::new(&model, 3).is_none());
    let mut few_keys = nano_9b();
    few_keys.num_key_value_heads = 2;
    let (eighth, two) = (Shard::new(&few_keys, 8).unwrap(), Shard::new(&few_keys, 2).unwrap());
    assert_eq!(eighth.keys_values(), two.keys_values());
}

/// Less memory means fewer kept graphs, then a refusal; checkpointing keeps none.
#[test]
fn memory_decides_what_is_kept() {
    let model = nano_9b();
    let plans: Vec<Plan> = [1000, 250, 200, 190, 180, 100].map(|gib| Plan::new(&input(&model, gib)).unwrap()).into();
    for pair in plans.windows(2) {
        assert!(pair[1].kept_bytes <= pair[0].kept_bytes);
        assert!(pair[1].engine.num_sequences <= pair[0].engine.num_sequences);
        assert!(pair[0].fits() || !pair[1].fits());
    }
    for plan in &plans {
        assert!(!plan.fits() || plan.peak_bytes() <= plan.device_memory);
    }
    assert!(plans[0].fits() && plans[0].kept_bytes > 0 && !plans[5].fits());
    let mut checkpointing = input(&model, 1000);
    checkpointing.settings.activation_checkpointing = true;
    let plan = Plan::new(&checkpointing).unwrap();
    assert!(plan.kept_bytes == 0 && plan.work.training_flops > plans[0].work.training_flops);
}

/// Where memory is no limit, all sequences have their pages, their slot and half of another, and so have the prefixes.
#[test]
fn engines_have_room_for_all_where_there_is_memory() {
    let model = nano_9b();
    let engine = Plan::new(&input(&model, 1000)).unwrap().engine;
    assert_eq!((engine.num_sequences, engine.num_pages, engine.num_slots), (128, (8192 / 16 + 1) * 133, 128 + 64 + 5));
    let mut half = input(&model, 200);
    half.settings.memory_utilization = 0.6;
    let few = Plan::new(&half).unwrap().engine;
    assert!(few.num_sequences < 128 && few.num_pages < engine.num_pages);
}

/// Weights that a host reads from a file take no memory that a plan would have to find.
#[test]
fn mapped_weights_are_left_out() {
    let model = nano_9b();
    let machine = Machine { device_memory: 16 << 30, devices: 1, threads: 2 };
    let needs = |mapped_bytes| {
        let plan =
            Plan::new(&PlanInput::of_generation(&model, (ElementBytes::BFLOAT16, mapped_bytes), [1, 1024], machine))
                .unwrap();
        (plan.resident_bytes(), plan.fits())
    };
    let weights = 2 * Shard::whole(&model).parameters;
    assert_eq!([needs(0), needs(weights - 100)], [(weights, false), (100, true)]);
}

/// Eight-bit moments take a byte each and a number per block; without masters four bytes are saved.
#[test]
fn optimizers_take_what_they_keep() {
    let model = nano_9b();
    let parameters = Shard::whole(&model).parameters;
    let mut lean = input(&model, 200);
    let optimizer = &mut lean.settings.optimizer;
    (optimizer.exp_avg, optimizer.exp_avg_sq) = (MomentDtype::Bfloat16, MomentDtype::Uint8);
    let bytes = |input: &PlanInput<'_>| Plan::new(input).unwrap().resident_bytes();
    assert_eq!(bytes(&lean), (2 + 4 + 2 + 1) * parameters + 4 * parameters.div_ceil(256));
    lean.settings.optimizer.main_params = Precision::Bfloat16;
    assert_eq!(bytes(&lean), (2 + 2 + 1) * parameters + 4 * parameters.div_ceil(256));
    // Full fine-tuning in one device of 80 GiB is proposed where that is what is missing.
    let mut one = input(&model, 84);
    one.workload = Workload { longest_sequence: 5000, max_batch_tokens: 4096, max_open_sequences: 16, ..one.workload };
    let proposed = remedies(&one);
    assert!(
        proposed.iter().any(|text| text.contains("exp_avg_dtype=uint8") && text.contains("main_params")),
        "{proposed:?}"
    );
}

/// Beside an adapter the model has neither masters nor moments nor sums, the factors have, and a reference is the model itself.
#[test]
fn an_adapter_is_all_that_is_trained() {
    let model = nano_9b();
    let text = "policy: {model_name: x, precision: bfloat16, megatron_cfg: {peft: {enabled: true, dim: 16}}}";
    let plan_of = |overrides: &[&str], threads: usize| {
        let mut overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        overrides.push("data.train.generate.count=1".to_owned());
        let config = crate::config::load_text(text, Path::new("x"), &overrides).unwrap().config;
        let machine = Machine { device_memory: 1000 << 30, devices: 1, threads };
        let input = PlanInput::of_config(&config, &model, 1, machine).unwrap();
        (Plan::new(&input).unwrap(), input)
    };
    let kl = ["loss_fn.reference_policy_kl_penalty=0.1", "grpo.skip_reference_policy_logprobs_calculation=false"];
    let (plan, input) = plan_of(&kl, 2);
    // Rank times inputs and outputs: 27 Mamba-2 blocks, 25 MLPs, 4 attention blocks.
    let mamba = (4480 + 22656) + (10240 + 4480);
    let mlp = 2 * (4480 + 15680);
    let attention = (4480 + 5120) + 2 * (4480 + 1024) + (5120 + 4480);
    let factors = 16 * (27 * mamba + 25 * mlp + 4 * attention);
    let bytes = |name: &str| plan.resident.iter().find(|item| item.name == name).map(|item| item.bytes);
    assert_eq!(bytes("factors of the adapter"), Some(4 * factors));
    assert_eq!(bytes("moments of the optimizer"), Some(8 * factors));
    assert_eq!((bytes("master weights"), bytes("weights of the reference policy")), (Some(0), None));
    // All but what is small lies in the file.
    assert!(bytes("weights").unwrap() < 8_000_000, "{:?}", plan.resident);
    let update = plan.phase("update").unwrap();
    assert_eq!(update.items[0], Item::new("gradient sums", 4 * factors));
    let whole = Plan::new(&PlanInput { adapter: None, ..input }).unwrap();
    let ratio = plan.work.training_flops / whole.work.training_flops;
    assert!(ratio < 0.7, "{ratio}");
    let ratio = plan.work.update_bytes / whole.work.update_bytes;
    assert!(ratio < 0.01, "{ratio}");

    // A device copies the weights; eight bits are not in the file, but embedding and head are.
    let weights = |(plan, _): (Plan, _)| plan.resident[0].bytes;
    let shard = Shard::whole(&model);
    assert_eq!(weights(plan_of(&[], 0)), 2 * shard.parameters);
    let tables = 2 * 131_072 * 4480;
    let eight = weights(plan_of(&["policy.megatron_cfg.peft.base_dtype=int8"], 2));
    assert_eq!(eight, shard.parameters - tables + 2 * 4480 - 4480);
    assert_eq!(weights(plan_of(&["policy.precision=float32"], 2)), 4 * shard.parameters);
}

/// What is proposed is computed: the named memory is enough, and a little less is not.
#[test]
fn remedies_help() {
    let model = nano_9b();
    assert!(remedies(&input(&model, 1000)).is_empty());
    let proposed = remedies(&input(&model, 80));
    assert!(proposed.iter().any(|text| text.contains("such devices")), "{proposed:?}");
    let memory = proposed.last().unwrap();
    let gib: f64 = memory.split(' ').next().unwrap().parse().unwrap();
    let fits = |gib: f64| {
        let mut changed = input(&model, 0);
        changed.machine.device_memory = (gib * (1_u64 << 30) as f64) as usize;
        Plan::new(&changed).unwrap().fits()
    };
    assert!(fits(gib + 0.01) && !fits(gib - 0.2), "{memory}");
}

/// A shape beyond all memory is refused, not overflowed.
#[test]
fn absurd_sizes_do_not_overflow() {
    let model = nano_9b();
    let mut absurd = input(&model, 80);
    absurd.workload.max_open_sequences = usize::MAX;
    absurd.workload.max_batch_tokens = 1 << 40;
    absurd.workload.longest_sequence = 1 << 40;
    assert!(!Plan::new(&absurd).unwrap().fits());
}

#[test]
fn sizes_are_rounded_up() {
    assert_eq!([0, 1023, 1025, 80 << 30].map(size_text), ["0.0 B", "1023.0 B", "1.1 KiB", "80.0 GiB"]);
}
