//! Speed of every operation on the CPU in f32 (products with bf16 and int8 weights too), beside what the machine can do and
//! beside its reference.
//!
//!     cargo bench --bench operations [-- PART OF A LINE'S NAME]
//!
//! An operation that mostly moves data is measured in bytes it has to read and write once, against a large copy (or a large
//! read, where it writes next to nothing); one that mostly multiplies in floating-point operations, against a large matrix
//! product. The limits are of the same run. The last
//! column is how much faster it is than the plain formula in tensor operations (its reference), where that exists for
//! the shape. Lines with "backward" time both passes and writing the ones that start them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench stops when something is wrong and prints what it measures"
)]

#[path = "../cli/allocator.rs"]
mod allocator;
mod machine;

use std::sync::Arc;

use burn::tensor::{DType, Device, Distribution, Int, Tensor};
use machine::{best_seconds, copy_bytes_per_second, matmul_flops_per_second, read_bytes_per_second};
use nemo_kernels::adamw::Order;
use nemo_kernels::{
    AdamWOptions, Int8Weight, Moment, PagedSequence, RoundingKey, SsdInputs, SsmStepInputs, SsmStepOptions, Weights,
    adamw_step, add_rms_norm, cache_write, causal_attention, causal_conv, gated_rms_norm, linear, linear_int8,
    linear_log_prob, paged_attention, rms_norm, squared_relu, ssd_scan, ssm_step,
};

const REPEATS: usize = 5;

fn main() {
    // `cargo test` builds and runs benches too, with this argument; there is nothing to test here then.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    allocator::keep_freed_memory();
    // As in the program: the thread that calls the operations is one of those they run on.
    rayon::scope(|_| measure());
}

fn measure() {
    let device = Device::flex();
    let table = Table::measure_limits(&device);
    norms(&table, &device);
    activation(&table, &device);
    convolution(&table, &device);
    scan(&table, &device);
    step(&table, &device);
    attention(&table, &device);
    cache(&table, &device);
    products(&table, &device);
    stored_products(&table, &device);
    product_gradients(&table, &device);
    head(&table, &device);
    optimizer(&table, &device);
}

/// What an operation has to do at least.
enum Work {
    /// Bytes read and written, each once.
    Bytes(f64),
    /// Bytes read, where next to nothing is written.
    Reads(f64),
    /// Floating-point operations, a multiply-add being two.
    Flops(f64),
}

struct Table {
    copy: f64,
    read: f64,
    matmul: f64,
    /// Part of the names of the lines that are wanted.
    wanted: Option<String>,
}

impl Table {
    fn measure_limits(device: &Device) -> Self {
        let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
        let table = Self {
            copy: copy_bytes_per_second(),
            read: read_bytes_per_second(),
            matmul: matmul_flops_per_second(device),
            wanted,
        };
        println!("{} threads, f32", rayon::current_num_threads());
        let (copy, read, matmul) = (table.copy / 1e9, table.read / 1e9, table.matmul / 1e9);
        println!("copy {copy:.1} GB/s, read {read:.1} GB/s, matrix product {matmul:.0} GFLOP/s");
        println!("{:<66} {:>9} {:>13} {:>12} {:>9}", "", "ms", "rate", "of limit", "reference");
        table
    }

    fn line(&self, name: &str, work: Work, run: impl FnMut(), reference: Option<&mut dyn FnMut()>) {
        if self.wanted.as_deref().is_some_and(|wanted| !name.contains(wanted)) {
            return;
        }
        let seconds = best_seconds(REPEATS, run);
        let (amount, unit, limit, kind) = match work {
            Work::Bytes(bytes) => (bytes, "GB/s", self.copy, "copy"),
            Work::Reads(bytes) => (bytes, "GB/s", self.read, "read"),
            Work::Flops(flops) => (flops, "GFLOP/s", self.matmul, "mul"),
        };
        let rate = format!("{:.1} {unit}", amount / seconds / 1e9);
        let share = amount / seconds / limit;
        let ratio = reference.map_or(String::new(), |run| format!("{:.1}x", best_seconds(1, run) / seconds));
        let share = format!("{:.0} % {kind}", 100.0 * share);
        println!("{name:<66} {:>9.3} {rate:>13} {share:>12} {ratio:>9}", 1e3 * seconds);
    }
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

fn drop_output<T>(output: T) {
    drop(std::hint::black_box(output));
}

/// Runs `operation` on tracked copies of `inputs` and differentiates its result, starting from ones: writing them is a pass
/// over memory that counts with the operation's own.
fn forward_backward<const I: usize, const O: usize>(
    inputs: &[Tensor<I>],
    operation: impl Fn(&[Tensor<I>]) -> Tensor<O>,
) {
    let tracked: Vec<_> = inputs.iter().map(|input| input.clone().detach().require_grad()).collect();
    let gradients = operation(&tracked).backward();
    drop_output(gradients);
}

fn norms(table: &Table, device: &Device) {
    let shape = [4, 512, 1536];
    let bytes = 4.0 * shape.iter().product::<usize>() as f64;
    let (x, gate, weight) = (random(shape, device), random(shape, device), random([shape[2]], device));
    table.line(
        "rms_norm [4, 512, 1536]",
        Work::Bytes(2.0 * bytes),
        || drop_output(rms_norm(x.clone(), weight.clone(), 1e-5)),
        Some(&mut || drop_output(rms_norm::reference::rms_norm(x.clone(), weight.clone(), 1e-5))),
    );
    table.line(
        "add_rms_norm [4, 512, 1536]",
        Work::Bytes(4.0 * bytes),
        || drop_output(add_rms_norm(x.clone(), gate.clone(), weight.clone(), 1e-5)),
        Some(&mut || drop_output(rms_norm::reference::add_rms_norm(x.clone(), gate.clone(), weight.clone(), 1e-5))),
    );
    table.line(
        "gated_rms_norm [4, 512, 1536], 8 groups",
        Work::Bytes(3.0 * bytes),
        || drop_output(gated_rms_norm(x.clone(), gate.clone(), weight.clone(), 8, 1e-5)),
        Some(&mut || {
            drop_output(gated_rms_norm::reference::gated_rms_norm(x.clone(), gate.clone(), weight.clone(), 8, 1e-5));
        }),
    );
    let device = device.clone().autodiff();
    let inputs = [random(shape, &device), random(shape, &device)];
    let weight = random([shape[2]], &device);
    // Forward moves two tensors; backward reads the input and the incoming gradient and writes one more.
    table.line(
        "rms_norm forward, backward",
        Work::Bytes(6.0 * bytes),
        || forward_backward(&inputs[..1], |t| rms_norm(t[0].clone(), weight.clone(), 1e-5)),
        None,
    );
    // Both results are used, as between blocks: forward moves four tensors, adding up its results three; backward reads
    // the sum and two incoming gradients and writes one.
    table.line(
        "add_rms_norm forward, backward",
        Work::Bytes(12.0 * bytes),
        || {
            forward_backward(&inputs, |t| {
                let (sum, normed) = add_rms_norm(t[0].clone(), t[1].clone(), weight.clone(), 1e-5);
                sum + normed
            });
        },
        None,
    );
    table.line(
        "gated_rms_norm forward, backward",
        Work::Bytes(9.0 * bytes),
        || forward_backward(&inputs, |t| gated_rms_norm(t[0].clone(), t[1].clone(), weight.clone(), 8, 1e-5)),
        None,
    );
}

fn activation(table: &Table, device: &Device) {
    let shape = [4, 512, 4096];
    let bytes = 4.0 * shape.iter().product::<usize>() as f64;
    let x = random(shape, device);
    table.line(
        "squared_relu [4, 512, 4096]",
        Work::Bytes(2.0 * bytes),
        || drop_output(squared_relu(x.clone())),
        Some(&mut || drop_output(squared_relu::reference::squared_relu(x.clone()))),
    );
    let x = [random(shape, &device.clone().autodiff())];
    table.line(
        "squared_relu forward, backward",
        Work::Bytes(6.0 * bytes),
        || forward_backward(&x, |t| squared_relu(t[0].clone())),
        Some(&mut || forward_backward(&x, |t| squared_relu::reference::squared_relu(t[0].clone()))),
    );
}

fn convolution(table: &Table, device: &Device) {
    let [batch, tokens, channels] = [4, 512, 1792];
    let bytes = 4.0 * (batch * tokens * channels) as f64;
    let run = |x: Tensor<3>, fast: bool| {
        let device = x.device();
        let (weight, bias) = (Tensor::ones([channels, 1, 4], &device), Tensor::zeros([channels], &device));
        let window = Tensor::zeros([1, channels, 3], &device);
        let convolve = if fast { causal_conv } else { causal_conv::reference::causal_conv };
        convolve(x, weight, Some(bias), window, None).0
    };
    let x = random([batch, tokens, channels], device);
    table.line(
        "causal_conv [4, 512, 1792], 4 taps",
        Work::Bytes(2.0 * bytes),
        || drop_output(run(x.clone(), true)),
        Some(&mut || drop_output(run(x.clone(), false))),
    );
    let x = [random([batch, tokens, channels], &device.clone().autodiff())];
    table.line(
        "causal_conv forward, backward",
        Work::Bytes(6.0 * bytes),
        || forward_backward(&x, |t| run(t[0].clone(), true)),
        Some(&mut || forward_backward(&x, |t| run(t[0].clone(), false))),
    );
}

fn scan(table: &Table, device: &Device) {
    let [batch, tokens, heads, width, state, groups] = [4, 512, 24, 64, 128, 1];
    let inputs = |x: Tensor<4>| {
        let device = x.device();
        SsdInputs {
            x,
            dt: random([batch, tokens, heads], &device),
            a_log: random([heads], &device),
            b: random([batch, tokens, groups, state], &device),
            c: random([batch, tokens, groups, state], &device),
            d: random([heads], &device),
            dt_bias: random([heads], &device),
            state: Tensor::zeros([1, heads, width, state], &device),
        }
    };
    let scan = |inputs: SsdInputs, fast: bool| {
        let scan = if fast { ssd_scan } else { ssd_scan::reference::ssd_scan };
        scan(inputs, (0.0, f64::INFINITY), None).0
    };
    // Per token and state element: decay, the outer product with its sum, and the inner product with C.
    let flops = 5.0 * (batch * tokens * heads * width * state) as f64;
    let plain = inputs(random([batch, tokens, heads, width], device));
    table.line(
        "ssd_scan [4, 512, 24 heads, 64], state 128",
        Work::Flops(flops),
        || drop_output(scan(plain.clone(), true)),
        Some(&mut || drop_output(scan(plain.clone(), false))),
    );
    let x = [random([batch, tokens, heads, width], &device.clone().autodiff())];
    let rest = inputs(x[0].clone());
    let tracked = |fast: bool| {
        forward_backward(&x, |t| {
            let required = |tensor: &Tensor<4>| tensor.clone().detach().require_grad();
            let (b, c) = (required(&rest.b), required(&rest.c));
            scan(SsdInputs { x: t[0].clone(), b, c, ..rest.clone() }, fast)
        });
    };
    // Backward runs the recurrence again and its adjoint, which has about twice the operations.
    table.line("ssd_scan forward, backward", Work::Flops(4.0 * flops), || tracked(true), Some(&mut || tracked(false)));
}

fn step(table: &Table, device: &Device) {
    // A small model's heads, then those of the 9B.
    let (small, large) = ([24, 64, 128, 1], [128, 80, 128, 8]);
    for (rows, [heads, width, state, groups]) in [(1, small), (8, small), (32, small), (1, large), (8, large)] {
        let (inner, channels, slots) = (heads * width, heads * width + 2 * groups * state, 2 * rows);
        let options = SsmStepOptions { num_groups: groups, dt_limit: (0.0, f64::INFINITY), epsilon: 1e-5 };
        let mut inputs = SsmStepInputs {
            z: random([rows, inner], device),
            xbc: random([rows, channels], device),
            dt: random([rows, heads], device),
            conv_weight: random([channels, 1, 4], device),
            conv_bias: None,
            a_log: random([heads], device),
            d: random([heads], device),
            dt_bias: random([heads], device),
            norm_weight: random([inner], device),
            conv_pool: Tensor::zeros([slots, channels, 3], device),
            ssm_pool: Tensor::zeros([slots, heads, width, state], device),
        };
        let bytes = 4.0 * 2.0 * (rows * heads * width * state) as f64;
        let slots: Vec<u32> = (0..rows as u32).collect();
        // The pools have one owner and go through the call, so they are changed in place as in the engine.
        let mut pools = Some((inputs.conv_pool.clone(), inputs.ssm_pool.clone()));
        let empty = [Tensor::zeros([1, channels, 3], device)];
        inputs.conv_pool = empty[0].clone();
        inputs.ssm_pool = Tensor::zeros([1, heads, width, state], device);
        table.line(
            &format!("ssm_step {rows} rows, {heads} heads of {width}, state {state} (state bytes)"),
            Work::Bytes(bytes),
            || {
                let (conv_pool, ssm_pool) = pools.take().expect("the pools come back");
                let inputs = SsmStepInputs { conv_pool, ssm_pool, ..inputs.clone() };
                let (y, conv_pool, ssm_pool) = ssm_step(inputs, options, slots.clone(), slots.clone());
                drop_output(y);
                pools = Some((conv_pool, ssm_pool));
            },
            None,
        );
    }
}

fn attention(table: &Table, device: &Device) {
    let [batch, tokens, query_heads, key_heads, width] = [1, 2048, 12, 2, 64];
    let scale = 1.0 / (width as f64).sqrt();
    let attend = |t: &[Tensor<4>], fast: bool| {
        let attend = if fast { causal_attention } else { causal_attention::reference::causal_attention };
        attend(t[0].clone(), t[1].clone(), t[2].clone(), None, None, scale)
    };
    let inputs = |device: &Device| {
        [query_heads, key_heads, key_heads].map(|heads| random([batch, tokens, heads, width], device))
    };
    // Two products over the half of the matrix under the diagonal.
    let flops = 2.0 * (batch * query_heads * tokens * tokens * width) as f64;
    let plain = inputs(device);
    table.line(
        "causal_attention [1, 2048], 12 query and 2 key heads of 64",
        Work::Flops(flops),
        || drop_output(attend(&plain, true)),
        Some(&mut || drop_output(attend(&plain, false))),
    );
    let tracked = inputs(&device.clone().autodiff());
    table.line(
        "causal_attention forward, backward",
        Work::Flops(3.5 * flops),
        || forward_backward(&tracked, |t| attend(t, true)),
        Some(&mut || forward_backward(&tracked, |t| attend(t, false))),
    );
    let (page_size, context) = (16, 4096);
    let pages = context / page_size;
    for sequences in [1, 8] {
        let pools = [(); 2].map(|()| random([sequences * pages, page_size, key_heads, width], device));
        let q = random([sequences, query_heads, width], device);
        let tables = (0..sequences).map(|sequence| PagedSequence {
            block_table: (0..pages).map(|page| (sequence + page * sequences) as u32).collect(),
            query_start: sequence,
            num_queries: 1,
            context_length: context,
        });
        let tables = Arc::new(tables.collect::<Vec<_>>());
        table.line(
            &format!("paged_attention {sequences} x 4096 tokens, 12/2 heads of 64"),
            Work::Reads(2.0 * 4.0 * (sequences * context * key_heads * width) as f64),
            || drop_output(paged_attention(q.clone(), pools[0].clone(), pools[1].clone(), Arc::clone(&tables), scale)),
            None,
        );
    }
}

fn cache(table: &Table, device: &Device) {
    let [pages, page_size, heads, width, rows] = [1024, 16, 2, 64, 4096];
    let mut pools = Some([(); 2].map(|()| Tensor::<4>::zeros([pages, page_size, heads, width], device)));
    let (k, v) = (random([rows, heads, width], device), random([rows, heads, width], device));
    let slots: Vec<u32> = (0..rows as u32).map(|row| row * 3 % (pages * page_size) as u32).collect();
    table.line(
        "cache_write 4096 rows, 2 heads of 64",
        Work::Bytes(4.0 * 4.0 * (rows * heads * width) as f64),
        || {
            let [k_pool, v_pool] = pools.take().expect("the pools come back");
            let (k_pool, v_pool) = cache_write(k_pool, v_pool, k.clone(), v.clone(), slots.clone());
            pools = Some([k_pool, v_pool]);
        },
        None,
    );
}

fn products(table: &Table, device: &Device) {
    let (inputs, outputs) = (1536, 4096);
    let weight = random([outputs, inputs], device);
    for rows in [1, 8, 16, 64, 512] {
        let x = random([1, rows, inputs], device);
        let few = rows <= 16;
        let work = match few {
            true => Work::Reads(4.0 * (inputs * outputs) as f64),
            false => Work::Flops(2.0 * (rows * inputs * outputs) as f64),
        };
        let what = if few { " (weight bytes)" } else { "" };
        let burn = weight.clone().transpose();
        table.line(
            &format!("linear {rows} rows, 1536 to 4096{what}; reference: Burn's"),
            work,
            || drop_output(linear(x.clone(), weight.clone(), None)),
            Some(&mut || drop_output(x.clone().reshape([rows, inputs]).matmul(burn.clone()))),
        );
    }
}

/// Decoding with weights that no cache holds, as they may be stored.
fn stored_products(table: &Table, device: &Device) {
    let (inputs, outputs) = (4096, 16384);
    let weight = random([outputs, inputs], device);
    let (bf16, int8) = (weight.clone().cast(DType::BF16), Int8Weight::quantize(weight.clone()));
    for rows in [1, 8, 64] {
        let x = random([1, rows, inputs], device);
        let run: [(_, _, &dyn Fn() -> Tensor<3>); 3] = [
            ("f32", 4.0, &|| linear(x.clone(), weight.clone(), None)),
            ("bf16", 2.0, &|| linear(x.clone(), bf16.clone(), None)),
            ("int8", 1.0, &|| linear_int8(x.clone(), &int8, None)),
        ];
        for (stored, size, run) in run {
            table.line(
                &format!("linear {rows} rows, 4096 to 16384 in {stored} (weight bytes)"),
                Work::Reads(size * (inputs * outputs) as f64),
                || drop_output(run()),
                None,
            );
        }
    }
}

/// The products of a training step: outputs, and the gradients of input and weight.
fn product_gradients(table: &Table, device: &Device) {
    let device = device.clone().autodiff();
    let rows = 2048;
    for [inputs, outputs] in [[768, 2688], [2688, 768]] {
        let tensors = [random([rows, inputs], &device), random([outputs, inputs], &device)];
        table.line(
            &format!("linear forward, backward {rows} rows, {inputs} to {outputs}"),
            Work::Flops(6.0 * (rows * inputs * outputs) as f64),
            || forward_backward(&tensors, |t| linear(t[0].clone().reshape([1, rows, inputs]), t[1].clone(), None)),
            None,
        );
    }
}

fn head(table: &Table, device: &Device) {
    let device = device.clone().autodiff();
    for [rows, vocabulary, width] in [[2048, 4096, 256], [512, 131_072, 512]] {
        let inputs = [random([rows, width], &device), random([vocabulary, width], &device)];
        let targets = Tensor::<1, Int>::zeros([rows], &device);
        let product = 2.0 * (rows * vocabulary * width) as f64;
        // The forward product, the same again in the backward pass, and one for either gradient.
        table.line(
            &format!("linear_log_prob forward, backward {rows} rows, {width} to {vocabulary}"),
            Work::Flops(4.0 * product),
            || {
                forward_backward(&inputs, |t| {
                    linear_log_prob(t[0].clone(), t[1].clone(), targets.clone(), 1.0).log_prob
                })
            },
            None,
        );
    }
}

fn optimizer(table: &Table, device: &Device) {
    const N: usize = 16 << 20;
    let (lr, beta1, beta2, eps, weight_decay, grad_scale) = (1e-4, 0.9, 0.999, 1e-8, 0.01, 1.0);
    let rounding = Some(RoundingKey { seed: 1, stream: 2 });
    let options = AdamWOptions { lr, beta1, beta2, eps, weight_decay, grad_scale, rounding };
    let gradient = random([N], device);
    let (wide, narrow) = (gradient.clone() * 2.0, gradient.clone().cast(DType::BF16));
    let floats = |dtype| [(); 2].map(|()| Moment::zeros([N], device, dtype));
    let codes = [Order::First, Order::Second].map(|order| Moment::blockwise_zeros(order, [N], device));
    let with_master = Weights::WithMaster { rounded: narrow.clone(), master: wide.clone() };
    // The gradient is read; what is kept is read and written.
    for (name, kept_bytes, weights, moments) in [
        ("adamw 16 M parameters", 12.0, Weights::Single(wide), floats(DType::F32)),
        ("adamw of bf16 with masters, 16 M", 13.0, with_master, floats(DType::F32)),
        ("adamw of bf16 rounded at random, 16 M", 10.0, Weights::Rounded(narrow.clone()), floats(DType::F32)),
        ("the same, moments in bf16", 6.0, Weights::Rounded(narrow.clone()), floats(DType::BF16)),
        ("the same, moments in eight bits", 4.0, Weights::Rounded(narrow), codes),
    ] {
        let mut state = Some((weights, moments));
        let step = || {
            let (weights, moments) = state.take().expect("the state comes back");
            state = Some(adamw_step(weights, gradient.clone(), moments, 10, options));
        };
        table.line(name, Work::Bytes((4.0 + 2.0 * kept_bytes) * N as f64), step, None);
    }
}
