//! Every adapter computes the pinned bits, with either form of the shaders.

use hyperion_backend_wgpu::{Wgpu, adapters};
use hyperion_ops::{Backend, conformance};

#[test]
fn every_adapter_conforms() {
    let adapters = adapters();
    if adapters.is_empty() {
        assert!(std::env::var_os("HYPERION_REQUIRE_WGPU").is_none(), "an adapter is required");
        println!("skipped: no Vulkan, Metal or DX12 adapter");
    }
    for adapter in adapters {
        for is_software in [false, true] {
            let mut device = Wgpu::open_as(adapter.index, 1 << 30, Some(is_software)).unwrap();
            println!("{adapter:?}: {:?}", device.info());
            let report = conformance::check(&mut device).unwrap();
            assert!(report.conforms(), "{}: differs in {:?}", adapter.name, report.differences());
        }
    }
}
