//! Every adapter computes the pinned bits, with either form of the shaders, and with bindings that hold little.

use hyperion_backend_wgpu::{Form, Wgpu, adapters};
use hyperion_ops::{Backend, conformance};

#[test]
fn every_adapter_conforms() {
    let adapters = adapters();
    if adapters.is_empty() {
        assert!(std::env::var_os("HYPERION_REQUIRE_WGPU").is_none(), "an adapter is required");
        println!("skipped: no Vulkan, Metal or DX12 adapter");
    }
    for adapter in adapters {
        let hardware = Form { is_software: Some(false), binding_bytes_max: None };
        let software = Form { is_software: Some(true), ..hardware };
        // Weights, rows and tables are cut, some of them many times.
        let narrow = Form { binding_bytes_max: Some(512 << 10), ..Form::default() };
        for form in [hardware, software, narrow] {
            let mut device = Wgpu::open_as(adapter.index, 1 << 30, form).unwrap();
            println!("{adapter:?}: {:?}", device.info());
            let report = conformance::check(&mut device).unwrap();
            assert!(report.conforms(), "{}: differs in {:?}", adapter.name, report.differences());
        }
    }
}
