//! Where a model runs, and in which number format.

use candle_core::{DType, Device};

use crate::FloatError;

/// How a model is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `cpu`, or `cuda:N` in a build with the feature `cuda`.
    pub device: String,
    /// `f32`, `bf16`, `f16`, or `auto`: f32 on the CPU, the format of the weights on a GPU.
    pub dtype: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { device: "cpu".to_owned(), dtype: "auto".to_owned() }
    }
}

impl Options {
    /// The device.
    pub(crate) fn device(&self) -> Result<Device, FloatError> {
        let refused = |why: String| FloatError::Device { name: self.device.clone(), why };
        if self.device == "cpu" {
            return Ok(Device::Cpu);
        }
        let index = self.device.strip_prefix("cuda:").and_then(|index| index.parse().ok());
        let index: usize = index.ok_or_else(|| refused("want `cpu` or `cuda:N`".to_owned()))?;
        if cfg!(not(feature = "cuda")) {
            let why = "this build runs float models on the CPU only; build it with the feature `candle-cuda`";
            return Err(refused(why.to_owned()));
        }
        Device::new_cuda(index).map_err(|error| refused(error.to_string()))
    }

    /// The number format, for weights that were published in `published` (`torch_dtype`).
    pub(crate) fn dtype(&self, device: &Device, published: &str) -> Result<DType, FloatError> {
        let name = match self.dtype.as_str() {
            "auto" if device.is_cpu() => "f32",
            "auto" => match published {
                "bfloat16" => "bf16",
                "float16" => "f16",
                _ => "f32",
            },
            name => name,
        };
        match name {
            "f32" => Ok(DType::F32),
            "bf16" => Ok(DType::BF16),
            "f16" => Ok(DType::F16),
            _ => Err(FloatError::Device {
                name: self.device.clone(),
                why: format!("`{name}` is none of auto, f32, bf16, f16"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_here_is_refused_by_name() {
        let refused = |device: &str| {
            let options = Options { device: device.to_owned(), ..Options::default() };
            options.device().unwrap_err().to_string()
        };
        assert!(refused("tpu").contains("want `cpu` or `cuda:N`"));
        assert!(refused("cuda:x").contains("`cuda:x`"));
        if cfg!(not(feature = "cuda")) {
            assert!(refused("cuda:0").contains("candle-cuda"));
        }
    }

    #[test]
    fn a_gpu_takes_the_format_of_the_weights_unless_told_otherwise() {
        let cpu = Device::Cpu;
        let of = |dtype: &str| Options { dtype: dtype.to_owned(), ..Options::default() };
        assert_eq!(of("auto").dtype(&cpu, "bfloat16").unwrap(), DType::F32);
        assert_eq!(of("bf16").dtype(&cpu, "float32").unwrap(), DType::BF16);
        assert!(of("i8").dtype(&cpu, "float32").is_err());
    }
}
