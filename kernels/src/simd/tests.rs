use super::*;

struct Everything<'a>(&'a [f32; 256]);

impl Kernel for Everything<'_> {
    type Output = Vec<u32>;
    #[inline(always)]
    fn run<L: Lanes>(self) -> Vec<u32> {
        let rows: [L; 16] =
            std::array::from_fn(|i| unsafe { L::load(self.0.as_ptr().add(16 * i)) });
        let mut out = Vec::new();
        out.extend(L::sum_each(rows).to_array());
        for row in L::transpose(rows) {
            out.extend(row.to_array());
        }
        for (i, row) in rows.iter().enumerate() {
            out.extend(row.exp().to_array());
            out.extend(row.silu().to_array());
            out.extend(row.sigmoid().to_array());
            out.push(row.sum());
            out.push(row.largest());
            out.extend(unsafe { L::load_first(self.0.as_ptr().add(3 * i), i) }.to_array());
            let mut part = [7.0; 16];
            unsafe { row.store_first(part.as_mut_ptr(), i + 1) };
            out.extend(part);
        }
        out.into_iter().map(f32::to_bits).collect()
    }
}

fn values() -> [f32; 256] {
    std::array::from_fn(|i| ((i * 7919 % 1009) as f32 - 504.0) * 0.2)
}

#[test]
fn every_level_gives_the_same_bits() {
    let values = values();
    let reference = run_at(Level::Portable, Everything(&values));
    for &level in Level::available() {
        assert_eq!(run_at(level, Everything(&values)), reference, "{level:?}");
    }
}

#[test]
fn transpose_and_sum_each_follow_their_documentation() {
    let values = values();
    let bits = run(Everything(&values));
    for i in 0..16 {
        let row = 4 * (i % 4) + i / 4;
        let sum: f32 = (0..16).map(|j| values[16 * row + j]).sum();
        assert!((f32::from_bits(bits[i]) - sum).abs() < 1e-3);
        for j in 0..16 {
            assert_eq!(f32::from_bits(bits[16 + 16 * i + j]), values[16 * j + i]);
        }
    }
}

struct Exp([f32; 16]);
impl Kernel for Exp {
    type Output = [f32; 16];
    #[inline(always)]
    fn run<L: Lanes>(self) -> [f32; 16] {
        L::from_array(&self.0).exp().to_array()
    }
}

#[test]
fn exp_is_accurate_and_the_scalar_form_agrees() {
    let mut worst = 0.0f64;
    for step in 0..11_000 {
        let x: [f32; 16] =
            std::array::from_fn(|i| -87.0 + 0.0159 * (step as f32 + i as f32 / 16.0));
        let got = run(Exp(x));
        for (x, got) in x.into_iter().zip(got) {
            let want = f64::from(x.min(EXP_MAX)).exp();
            worst = worst.max(((f64::from(got) - want) / want).abs());
            assert_eq!(exp(x).to_bits(), got.to_bits(), "{x}");
        }
    }
    assert!(worst < 1.5e-7, "{worst}");
    let special = run(Exp(std::array::from_fn(|i| {
        [f32::NEG_INFINITY, -90.0, f32::NAN, f32::INFINITY][i % 4]
    })));
    assert_eq!(special[0], 0.0);
    assert_eq!(special[1], 0.0);
    assert!(special[2].is_nan());
    assert!(special[3].is_finite());
}

#[test]
fn softplus_and_ln_are_accurate() {
    for step in -4000..4000 {
        let x = step as f32 * 0.01;
        let want = f64::from(x).exp().ln_1p();
        let got = f64::from(softplus(x));
        assert!((got - want).abs() <= 3e-7 * want, "{x}: {got} {want}");
        let y = 1.0 + (step + 4000) as f64 * 0.37;
        assert!(
            (ln(y) - y.ln()).abs() <= 1e-14 * y.ln().abs().max(1.0),
            "{y}"
        );
    }
}
