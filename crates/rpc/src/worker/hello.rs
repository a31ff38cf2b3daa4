//! Who is there: the greeting, and what a worker says of itself.

use hyperion_engine::{DeviceInfo, DeviceKind, OPSET};
use hyperion_primitives::{Address, B256, ModelId};
use hyperion_verify::attach::Attach;
use tonic::Status;

use crate::{
    convert::{copied, digest, exactly},
    door::Door,
    r#gen::v1,
    limits::at_most,
    status::{Code, Error},
};

/// Seconds for which a greeting can be answered.
const EXPIRES_S: u64 = 30;
/// Devices and models of one worker.
const DEVICES_MAX: usize = 64;
const MODELS_MAX: usize = 1024;

/// A worker that has proved its key.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) worker: Address,
    pub(super) models: Vec<ModelId>,
    pub(super) info: DeviceInfo,
}

/// What a worker is to sign, but for its own address and build.
pub(super) fn greeting(door: &Door) -> Attach {
    Attach {
        worker: Address::ZERO,
        node: door.engine.worker(),
        session: B256::new(rand::random()),
        build: B256::ZERO,
        expires: door.clock.unix_s().saturating_add(EXPIRES_S),
    }
}

pub(super) fn wire(asked: &Attach) -> v1::Greeting {
    v1::Greeting {
        node: copied(asked.node),
        session: copied(asked.session),
        expires_s: asked.expires,
    }
}

/// Checks an answer to `asked`.
pub(super) fn read(door: &Door, asked: &Attach, hello: v1::Hello) -> Result<Hello, Status> {
    let v1::Hello { worker, signature, build, opset, devices, models } = hello;
    let worker = Address::new(exactly("hello.worker", &worker)?);
    let build = if build.is_empty() { B256::ZERO } else { digest("hello.build", &build)? };
    let signature = exactly("hello.signature", &signature)?;
    if door.clock.unix_s() > asked.expires {
        return Err(Error::new(Code::Forbidden, "the greeting has expired; connect again").into());
    }
    let attach = Attach { worker, build, ..asked.clone() };
    attach
        .check(&door.engine.domain(), &signature)
        .map_err(|error| Error::at(Code::SignatureInvalid, "hello.signature", error.to_string()))?;
    if !door.workers.contains(&worker) {
        let text = format!(
            "worker {worker} may not attach here: whoever runs the node adds its address to workers.keys"
        );
        return Err(Error::new(Code::Forbidden, text).into());
    }
    if opset != u32::from(OPSET) {
        return Err(Status::failed_precondition(format!(
            "the worker has operator set {opset}, this node has {OPSET}; run the same release on both"
        )));
    }
    at_most("hello.devices", "devices", devices.len(), DEVICES_MAX)?;
    at_most("hello.models", "models", models.len(), MODELS_MAX)?;
    for device in &devices {
        let longest = device.name.len().max(device.kind.len()).max(device.driver.len());
        at_most("hello.devices", "bytes of name", longest, door.limits.name_bytes_max)?;
    }
    let models = models.iter().map(|id| Ok(digest("hello.models", id)?.into()));
    Ok(Hello {
        worker,
        models: models.collect::<Result<_, Error>>()?,
        info: info(worker, &devices),
    })
}

/// A worker as lists and metrics show it: one device, whatever it has.
fn info(worker: Address, devices: &[v1::Device]) -> DeviceInfo {
    let kind = match devices.first().map(|device| device.kind.as_str()) {
        Some("cuda") => DeviceKind::Cuda,
        Some("wgpu") => DeviceKind::Wgpu,
        _ => DeviceKind::Cpu,
    };
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    DeviceInfo {
        kind,
        name: format!("worker {worker}"),
        kernels: names.join(", "),
        threads: devices.len(),
        memory_bytes: devices.iter().fold(0, |sum, device| sum.saturating_add(device.memory_bytes)),
    }
}
