//! Memory that several processes share: objects that are made of a descriptor and have no name, and what lies in them.
//!
//! `unsafe` stands here because references into shared memory are made here; each block argues for itself.
#![expect(unsafe_code, reason = "views of shared mappings; see the SAFETY lines")]

mod array;
mod bytes;
mod cells;
pub(crate) mod object;
pub(crate) mod post;
mod raw;
mod value;
#[cfg(feature = "ndarray")]
mod views;

pub use array::{Array, ArrayGuard};
pub use bytes::SharedBytes;
pub use raw::{RawArray, RawValue, SharedInteger};
pub use value::{Value, ValueGuard};
