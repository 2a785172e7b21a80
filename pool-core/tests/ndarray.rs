//! Views of shared memory with several dimensions: `cargo test -p pool-core --features ndarray`.
#![cfg(feature = "ndarray")]
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use ndarray::{ArrayView2, Axis, ShapeBuilder};
use pool_core::{Array, Poisoned, Pool, SharedBytes, TryLockError};

pool_core::test_support!();

#[test]
fn rows_are_filled_by_workers_and_columns_seen_here() {
    let pool = Pool::new(2).unwrap();
    let table = Array::<u32>::zeroed(20 * 30).unwrap();
    let fill = |table: Array<u32>, row: usize| -> anyhow::Result<()> {
        let mut guard = table.lock().unwrap_or_else(Poisoned::into_inner);
        let mut view = guard.view_mut((20, 30))?;
        view.row_mut(row).iter_mut().enumerate().for_each(|(i, x)| *x = (100 * row + i) as u32);
        Ok(())
    };
    pool.starmap(fill, (0..20).map(|row| (table.clone(), row))).unwrap();
    let guard = table.lock().unwrap();
    let view = guard.view((20, 30)).unwrap();
    for (column, elements) in view.axis_iter(Axis(1)).enumerate() {
        assert!(elements.iter().enumerate().all(|(row, x)| *x == (100 * row + column) as u32));
    }
    // the same elements, column by column
    assert_eq!(guard.view((30, 20).f()).unwrap(), view.t());
    // a view of the first of them; more than there are is an error
    assert_eq!(guard.view((2, 2)).unwrap()[(1, 1)], 3);
    assert!(guard.view((20, 31)).is_err());
    let view: ArrayView2<'_, u32> = guard.view((1, 600)).unwrap();
    assert_eq!(view.dim(), (1, 600));
    // the lock is held while there is a view
    let other = table.clone();
    let is_locked = move || matches!(other.try_lock(), Err(TryLockError::WouldBlock));
    assert!(std::thread::spawn(is_locked).join().unwrap());
    assert_eq!(view[(0, 31)], 101);
}

#[test]
fn bytes_are_elements_of_any_plain_type() {
    let pool = Pool::new(1).unwrap();
    let numbers: Vec<f64> = (0..24).map(f64::from).collect();
    let shared = SharedBytes::new(bytemuck::cast_slice(&numbers)).unwrap();
    let sum = |numbers: SharedBytes| -> anyhow::Result<Vec<f64>> {
        Ok(numbers.view::<f64, _>((2, 3, 4))?.sum_axis(Axis(0)).sum_axis(Axis(0)).to_vec())
    };
    assert_eq!(pool.apply(sum, (shared.clone(),)).unwrap(), [60.0, 66.0, 72.0, 78.0]);
    assert!(shared.view::<f64, _>(25).is_err());
    let odd = SharedBytes::new(&[0; 9]).unwrap();
    assert!(odd.view::<f64, _>(1).is_err());
    assert_eq!(odd.view::<[u8; 3], _>(3).unwrap().len(), 3);
    assert_eq!(SharedBytes::new(&[]).unwrap().view::<u64, _>(0).unwrap().len(), 0);
}
