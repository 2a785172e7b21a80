//! Shared memory as arrays of the `ndarray` crate, without a copy: with the feature `ndarray`.
//!
//! There is nothing here for [`RawArray`](crate::RawArray): a view is made of references, and others may write to its elements at any time. `to_vec` gives a
//! copy, of which `ndarray::Array::from_shape_vec` makes an array.

use bytemuck::Pod;
use ndarray::{ArrayView, ArrayViewMut, Dimension, ErrorKind, ShapeError, StrideShape};

use super::{ArrayGuard, SharedBytes};

/// With the feature `ndarray`.
impl<T> ArrayGuard<'_, T> {
    /// The elements as an array of this shape, row by row unless the shape says otherwise. The lock is held as long as there is a view. Nothing is copied.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::{Array, Poisoned};
    /// let pool = pool_core::Pool::new(2)?;
    /// let table = Array::<f64>::zeroed(3 * 4)?;
    /// let fill = |table: Array<f64>, row: usize| -> anyhow::Result<()> {
    ///     let mut guard = table.lock().unwrap_or_else(Poisoned::into_inner);
    ///     guard.view_mut((3, 4))?.row_mut(row).fill(row as f64);
    ///     Ok(())
    /// };
    /// pool.starmap(fill, (0..3).map(|row| (table.clone(), row)))?;
    /// let guard = table.lock().unwrap_or_else(Poisoned::into_inner);
    /// assert_eq!(guard.view((3, 4))?.column(1).to_vec(), [0.0, 1.0, 2.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The shape has more elements than the array.
    pub fn view<D: Dimension>(
        &self,
        shape: impl Into<StrideShape<D>>,
    ) -> Result<ArrayView<'_, T, D>, ShapeError> {
        ArrayView::from_shape(shape, self)
    }

    /// Like [`view`](ArrayGuard::view), to be written to.
    ///
    /// # Errors
    /// The shape has more elements than the array.
    pub fn view_mut<D: Dimension>(
        &mut self,
        shape: impl Into<StrideShape<D>>,
    ) -> Result<ArrayViewMut<'_, T, D>, ShapeError> {
        ArrayViewMut::from_shape(shape, self)
    }
}

/// With the feature `ndarray`.
impl SharedBytes {
    /// The bytes as an array of this type and shape, in the machine's own order of bytes. Nothing is copied, and no lock is needed: nobody can write to them.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::SharedBytes;
    /// let pool = pool_core::Pool::new(2)?;
    /// let weights: Vec<f32> = (0..6).map(|i| i as f32).collect();
    /// let shared = SharedBytes::new(bytemuck::cast_slice(&weights))?;
    /// let sum = |weights: SharedBytes, row: usize| -> anyhow::Result<f32> {
    ///     Ok(weights.view::<f32, _>((2, 3))?.row(row).sum())
    /// };
    /// assert_eq!(pool.starmap(sum, (0..2).map(|row| (shared.clone(), row)))?, [3.0, 12.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The bytes are no whole number of elements, or not as many as the shape has.
    pub fn view<T: Pod, D: Dimension>(
        &self,
        shape: impl Into<StrideShape<D>>,
    ) -> Result<ArrayView<'_, T, D>, ShapeError> {
        // nothing lies nowhere in particular, so it may be not aligned
        let bytes: &[u8] = self;
        let elements = if bytes.is_empty() { Ok(&[][..]) } else { bytemuck::try_cast_slice(bytes) };
        let elements = elements.map_err(|_| ShapeError::from_kind(ErrorKind::IncompatibleShape))?;
        ArrayView::from_shape(shape, elements)
    }
}
