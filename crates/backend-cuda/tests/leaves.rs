//! A tensor is hashed where it is, to the leaves that the CPU makes of it.

mod common;

use common::{Traits, emulated};
use hyperion_ops::Backend;
use hyperion_primitives::{Dtype, Mix, tensor_root, tensor_root_of_leaves};

#[test]
fn every_length_gives_the_root_of_the_cpu() {
    let Some(mut device) = emulated(Traits::default()) else { return };
    let mut mix = Mix::new(11);
    for len in [1_u64, 1_023, 1_024, 1_025, 131_072, 200_001] {
        let data: Vec<u8> = (0..len).map(|_| u8::try_from(mix.below(256)).unwrap()).collect();
        let buffer = device.alloc(len + 3).unwrap();
        device.write(buffer, 3, &data).unwrap();
        let leaves = device.leaves(buffer, 3, len).unwrap().expect("this device hashes");
        let dims = [len];
        let want = tensor_root(Dtype::U8, &dims, &data).unwrap();
        assert_eq!(tensor_root_of_leaves(Dtype::U8, &dims, leaves), Some(want), "{len} bytes");
    }
}
