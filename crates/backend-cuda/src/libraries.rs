//! Which of CUDA's libraries are here.
//!
//! They are opened when they are first asked for, and where one is not, its part is left out. A build with the feature
//! `linked` names them to the system's loader instead, which does not start the program without them.

/// Defines one question by the library's module in cudarc.
macro_rules! is_here {
    ($($(#[$doc:meta])* $name:ident: $($path:ident)::+,)*) => {
        $(
            $(#[$doc])*
            #[cfg(not(feature = "linked"))]
            pub(crate) fn $name() -> bool {
                // SAFETY: the call only tries to open libraries.
                unsafe { cudarc::$($path)::+::is_culib_present() }
            }

            $(#[$doc])*
            #[cfg(feature = "linked")]
            pub(crate) const fn $name() -> bool {
                true
            }
        )*
    };
}

is_here!(
    /// `libcuda`, which comes with NVIDIA's driver.
    has_driver: driver::sys,
    /// `libnvrtc`, the compiler.
    has_nvrtc: nvrtc::sys,
    /// `libcublasLt`, whose products may be faster than ours.
    has_cublaslt: cublaslt::sys,
);
