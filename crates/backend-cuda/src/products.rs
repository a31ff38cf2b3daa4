//! cuBLASLt's int8 products, where they are faster.
//!
//! Its sums are exact 32-bit integers like ours, so which of the two a shape takes changes no bit; `cuda.rs` measures
//! both once for each shape, and compares what they give.

use std::{ffi::c_void, ptr, sync::Arc};

use cudarc::{
    cublaslt::{
        result::{self, CublasError},
        sys,
    },
    driver::{CudaSlice, CudaStream, DevicePtr},
};

use crate::{Address, ProductShape, libraries};

/// Memory that the library may use on its own, NVIDIA's recommendation for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;

/// The library on one stream.
pub(crate) struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    stream: Arc<CudaStream>,
}

impl Products {
    /// `None` where the library is not installed or refuses.
    pub(crate) fn new(stream: &Arc<CudaStream>) -> Option<Self> {
        if !libraries::has_cublaslt() {
            return None;
        }
        // SAFETY: the library writes here before it reads.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE_BYTES) }.ok()?;
        let handle = result::create_handle().ok()?;
        Some(Self { handle, workspace, stream: Arc::clone(stream) })
    }

    /// Whether the library takes these sizes: its int8 products want multiples of 4.
    pub(crate) const fn takes(shape: ProductShape) -> bool {
        shape.channels.is_multiple_of(4) && shape.depth.is_multiple_of(16)
    }

    /// `out[r][c]` becomes the sum of products of row r and channel c, i32.
    ///
    /// # Safety
    ///
    /// The three places are on this device and as large as the shape says.
    pub(crate) unsafe fn run(
        &self,
        shape: ProductShape,
        codes: Address,
        weights: Address,
        out: Address,
    ) -> Result<(), CublasError> {
        // The library counts columns first: weights are `[depth, channels]` to be transposed, codes `[depth, rows]`, and
        // the result `[channels, rows]`.
        let (rows, channels) = (u64::from(shape.rows), u64::from(shape.channels));
        let depth = u64::from(shape.depth);
        let (codes_kind, sums_kind) =
            (sys::cudaDataType_t::CUDA_R_8I, sys::cudaDataType_t::CUDA_R_32I);
        let weights_layout = Layout::new(codes_kind, depth, channels)?;
        let codes_layout = Layout::new(codes_kind, depth, rows)?;
        let out_layout = Layout::new(sums_kind, channels, rows)?;
        let product = Description::new(sums_kind)?;
        let preference = Preference::new()?;
        // SAFETY: all of them live until the end of this function.
        let heuristic = unsafe {
            result::get_matmul_algo_heuristic(
                self.handle,
                product.0,
                weights_layout.0,
                codes_layout.0,
                out_layout.0,
                out_layout.0,
                preference.0,
            )
        }?;
        let (one, zero) = (1_i32, 0_i32);
        let place = |at: Address| at.0 as *mut c_void;
        let (workspace, _guard) = self.workspace.device_ptr(&self.stream);
        // SAFETY: descriptions live until the end of this function, the places are the caller's promise.
        unsafe {
            result::matmul(
                self.handle,
                product.0,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                place(weights),
                weights_layout.0,
                place(codes),
                codes_layout.0,
                place(out),
                out_layout.0,
                place(out),
                out_layout.0,
                &raw const heuristic.algo,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                self.stream.cu_stream().cast(),
            )
        }
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: nobody uses the handle after this.
        let _ = unsafe { result::destroy_handle(self.handle) }; // nothing is to be done about a refusal
    }
}

/// A matrix that lies without gaps.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(kind: sys::cudaDataType_t, rows: u64, columns: u64) -> Result<Self, CublasError> {
        result::create_matrix_layout(kind, rows, columns, rows.cast_signed()).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: it was made here and is used nowhere else.
        let _ = unsafe { result::destroy_matrix_layout(self.0) }; // nothing is to be done about a refusal
    }
}

/// An exact product whose first matrix is transposed.
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new(scale: sys::cudaDataType_t) -> Result<Self, CublasError> {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32I;
        let made = result::create_matmul_desc(compute, scale).map(Self)?;
        let transposed: i32 = 1; // CUBLAS_OP_T
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        let value = ptr::from_ref(&transposed).cast();
        // SAFETY: the library copies the value before the call returns.
        unsafe { result::set_matmul_desc_attribute(made.0, attribute, value, size_of::<i32>()) }?;
        Ok(made)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: it was made here and is used nowhere else.
        let _ = unsafe { result::destroy_matmul_desc(self.0) }; // nothing is to be done about a refusal
    }
}

/// What the library may use.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Self, CublasError> {
        let made = result::create_matmul_pref().map(Self)?;
        let attribute =
            sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let value = ptr::from_ref(&WORKSPACE_BYTES).cast();
        // SAFETY: the library copies the value before the call returns.
        unsafe { result::set_matmul_pref_attribute(made.0, attribute, value, size_of::<usize>()) }?;
        Ok(made)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: it was made here and is used nowhere else.
        let _ = unsafe { result::destroy_matmul_pref(self.0) }; // nothing is to be done about a refusal
    }
}
