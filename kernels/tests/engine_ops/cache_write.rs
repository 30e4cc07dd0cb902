use burn::tensor::{DType, Tensor};
use nemo_kernels::cache_write;
use nemo_kernels::cache_write::reference;

use crate::harness::{Inputs, address, bits, values};

fn inputs(random: &mut Inputs) -> (Tensor<4>, Tensor<4>, Tensor<3>, Tensor<3>, Vec<u32>) {
    // k and v are column ranges of one projection.
    let projected = random.tensor([5, 2 * 3 * 7]);
    (
        random.tensor([6, 4, 3, 7]),
        random.tensor([6, 4, 3, 7]),
        projected.clone().narrow(1, 0, 21).reshape([5, 3, 7]),
        projected.narrow(1, 21, 21).reshape([5, 3, 7]),
        vec![3, 23, 0, 11, 12],
    )
}

#[test]
fn host_equals_reference() {
    let (k_pool, v_pool, k, v, slots) = inputs(&mut Inputs(1));
    let want = reference::cache_write(k_pool.clone(), v_pool.clone(), k.clone(), v.clone(), &slots);
    let got = cache_write(k_pool.clone(), v_pool.clone(), k.clone(), v.clone(), slots.clone());
    assert_eq!(bits(&got.0), bits(&want.0));
    assert_eq!(bits(&got.1), bits(&want.1));
    let wide =
        cache_write(k_pool.cast(DType::F64), v_pool.cast(DType::F64), k.cast(DType::F64), v.cast(DType::F64), slots);
    assert_eq!(wide.0.dtype(), DType::F64);
    assert_eq!(values(&wide.1), values(&want.1));
}

#[test]
fn sole_handles_are_updated_in_place() {
    let (k_pool, v_pool, k, v, slots) = inputs(&mut Inputs(2));
    let (k_address, v_address) = (address(&k_pool), address(&v_pool));
    let (k_pool, v_pool) = cache_write(k_pool, v_pool, k.clone(), v.clone(), slots.clone());
    assert_eq!((address(&k_pool), address(&v_pool)), (k_address, v_address));
    let kept = k_pool.clone();
    let before = bits(&kept);
    let (changed, _) = cache_write(k_pool, v_pool, k * 2.0, v, slots);
    assert_ne!(address(&changed), k_address);
    assert_eq!(bits(&kept), before);
}

#[test]
#[should_panic(expected = "it must be a slot of the pool")]
fn slots_outside_the_pool_are_refused() {
    let (k_pool, v_pool, k, v, mut slots) = inputs(&mut Inputs(3));
    slots[2] = 24;
    cache_write(k_pool, v_pool, k, v, slots);
}
