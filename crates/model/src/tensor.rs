use hyperion_primitives::{B256, Dtype, TensorRoot, output_hash, tensor_root};

/// A committed tensor of rank two: what a model reads or says.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Element type.
    pub dtype: Dtype,
    /// Rows and width; neither is zero.
    pub dims: [u64; 2],
    /// Elements, row-major, little-endian.
    pub data: Vec<u8>,
    /// The CT1 root, if the device that made the elements hashed them as well.
    pub(crate) hashed: Option<TensorRoot>,
}

/// Equal are tensors of equal type, shape and elements, whoever hashed them.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        (self.dtype, self.dims, &self.data) == (other.dtype, other.dims, &other.data)
    }
}

impl Eq for Tensor {}

impl Tensor {
    /// A tensor of these elements.
    pub const fn new(dtype: Dtype, dims: [u64; 2], data: Vec<u8>) -> Self {
        Self { dtype, dims, data, hashed: None }
    }

    /// CT1 root.
    ///
    /// # Panics
    ///
    /// When the data's length is not what shape and type say.
    pub fn root(&self) -> TensorRoot {
        let computed = || tensor_root(self.dtype, &self.dims, &self.data);
        self.hashed.or_else(computed).expect("a tensor's data fits its shape")
    }

    /// `outputHash` of a run whose one output this is.
    ///
    /// # Panics
    ///
    /// As [`root`](Self::root).
    pub fn output_hash(&self) -> B256 {
        output_hash(&[self.root()])
    }

    /// Elements as numbers; for display.
    pub fn elements(&self) -> Vec<i64> {
        let bytes = self.dtype.bytes();
        let element = |chunk: &[u8]| {
            let mut wide = [0; 8];
            wide[..bytes].copy_from_slice(chunk);
            let unsigned = u64::from_le_bytes(wide).cast_signed();
            let unused = 64 - 8 * u32::try_from(bytes).expect("1, 2, 4 or 8");
            let is_signed = matches!(self.dtype, Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64);
            if is_signed { unsigned << unused >> unused } else { unsigned }
        };
        self.data.chunks_exact(bytes).map(element).collect()
    }
}
