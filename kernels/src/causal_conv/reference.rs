//! Plain tensor operations: one shifted product per tap.

use burn::tensor::{Tensor, activation::silu};

/// See [`causal_conv`](super::causal_conv()).
pub fn causal_conv(
    x: Tensor<3>,
    weight: Tensor<3>,
    bias: Option<Tensor<1>>,
    window: Tensor<3>,
    lengths: Option<&[usize]>,
) -> (Tensor<3>, Tensor<3>) {
    let [batch, tokens, channels] = x.dims();
    let [_, _, taps] = weight.dims();
    let history = window.swap_dims(1, 2).expand([batch, taps - 1, channels]);
    // `extended[t]` is the input of tap 0 at token t.
    let extended = Tensor::cat(vec![history, x], 1);
    let weight = weight.swap_dims(0, 2); // [K, 1, C]
    let mut sum = bias.map(|bias| bias.unsqueeze::<3>().expand([batch, tokens, channels]));
    for tap in 0..taps {
        let term = extended.clone().narrow(1, tap, tokens) * weight.clone().narrow(0, tap, 1);
        sum = Some(match sum {
            Some(sum) => sum + term,
            None => term,
        });
    }
    // `taps >= 2`, so the sum exists; the fallback only satisfies the type.
    let y = silu(sum.unwrap_or_else(|| extended.clone().narrow(1, 0, tokens)));
    let window = match lengths {
        Some(lengths) if lengths.iter().any(|&length| length != tokens) => {
            let rows = lengths
                .iter()
                .enumerate()
                .map(|(row, &length)| extended.clone().narrow(0, row, 1).narrow(1, length, taps - 1));
            Tensor::cat(rows.collect(), 0)
        }
        _ => extended.narrow(1, tokens, taps - 1),
    };
    (y, window.swap_dims(1, 2))
}
