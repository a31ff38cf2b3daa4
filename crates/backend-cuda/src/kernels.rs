//! Which kernels there are.

/// The files of `kernels/` in the order in which they make one source: what a file uses stands before it.
macro_rules! files {
    ($($stem:literal),* $(,)?) => {
        [$(($stem, include_str!(concat!("../../../kernels/", $stem, ".cu")))),*]
    };
}

const FILES: [(&str, &str); 19] = files!(
    "device",
    "common",
    "activation",
    "add",
    "argmax",
    "embed",
    "gate",
    "softcap",
    "keccak",
    "norm",
    "pool",
    "position",
    "quantize",
    "cache",
    "requantize",
    "rope",
    "rows",
    "attention",
    "gemm",
);

/// All kernels as one source for NVRTC, each file with its own line numbers.
pub fn source() -> String {
    let file = |(stem, text): (&str, &str)| format!("#line 1 \"{stem}.cu\"\n{text}");
    FILES.map(file).join("\n")
}

/// A kernel of `kernels/*.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the kernel of its name")]
pub enum Kernel {
    Activation,
    Add,
    Argmax,
    Attention64,
    Attention128,
    Attention256,
    Attention64Fine,
    Attention128Fine,
    Attention256Fine,
    CacheAppend,
    CacheGather,
    Embed,
    Gate,
    Gemm,
    GemmFine,
    GemmFewRows,
    GemmFewRowsFine,
    GemmGroup,
    Keccak,
    Norm,
    Pool,
    Position,
    Quantize,
    QuantizeValues,
    Requantize,
    Rope,
    Rows,
    Softcap,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 28] = [
        Self::Activation,
        Self::Add,
        Self::Argmax,
        Self::Attention64,
        Self::Attention128,
        Self::Attention256,
        Self::Attention64Fine,
        Self::Attention128Fine,
        Self::Attention256Fine,
        Self::CacheAppend,
        Self::CacheGather,
        Self::Embed,
        Self::Gate,
        Self::Gemm,
        Self::GemmFine,
        Self::GemmFewRows,
        Self::GemmFewRowsFine,
        Self::GemmGroup,
        Self::Keccak,
        Self::Norm,
        Self::Pool,
        Self::Position,
        Self::Quantize,
        Self::QuantizeValues,
        Self::Requantize,
        Self::Rope,
        Self::Rows,
        Self::Softcap,
    ];

    /// Its name in `kernels/*.cu`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Activation => "activation",
            Self::Add => "add",
            Self::Argmax => "argmax",
            Self::Attention64 => "attention_64",
            Self::Attention128 => "attention_128",
            Self::Attention256 => "attention_256",
            Self::Attention64Fine => "attention_64_fine",
            Self::Attention128Fine => "attention_128_fine",
            Self::Attention256Fine => "attention_256_fine",
            Self::CacheAppend => "cache_append",
            Self::CacheGather => "cache_gather",
            Self::Embed => "embed",
            Self::Gate => "gate",
            Self::Gemm => "gemm",
            Self::GemmFine => "gemm_fine",
            Self::GemmFewRows => "gemm_few_rows",
            Self::GemmFewRowsFine => "gemm_few_rows_fine",
            Self::GemmGroup => "gemm_group",
            Self::Keccak => "keccak",
            Self::Norm => "norm",
            Self::Pool => "pool",
            Self::Position => "position",
            Self::Quantize => "quantize",
            Self::QuantizeValues => "quantize_values",
            Self::Requantize => "requantize",
            Self::Rope => "rope",
            Self::Rows => "rows",
            Self::Softcap => "softcap",
        }
    }

    /// Its name in the compiled code: what CUDA declares by itself, such as `norm`, has no prefix.
    pub fn symbol(self) -> String {
        format!("hyperion_{}", self.name())
    }

    /// Whether a launch says how much shared memory it wants.
    pub const fn has_dynamic_shared(self) -> bool {
        matches!(
            self,
            Self::Gemm
                | Self::GemmFine
                | Self::GemmGroup
                | Self::Attention64
                | Self::Attention128
                | Self::Attention256
                | Self::Attention64Fine
                | Self::Attention128Fine
                | Self::Attention256Fine
        )
    }
}
