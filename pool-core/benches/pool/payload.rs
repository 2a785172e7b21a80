//! Large arguments and results.

use std::time::Instant;

use pool_core::{Pool, SharedBytes};

use crate::common::{self, Figures, length, make};

/// Byte vectors to a worker, and from it, one call at a time; up to so many bytes.
pub(crate) fn both_ways(largest: usize) -> anyhow::Result<Figures> {
    let pool = Pool::new(1)?;
    let mut figures = Figures::default();
    common::bandwidth("in_", &mut figures, largest, |bytes| {
        let argument = vec![7; bytes];
        let begun = Instant::now();
        assert_eq!(pool.apply(length, (argument,))?, bytes as u64);
        Ok(begun.elapsed())
    })?;
    common::bandwidth("out_", &mut figures, largest, |bytes| {
        let begun = Instant::now();
        let result = pool.apply(make, (bytes as u64,))?;
        let taken = begun.elapsed();
        assert_eq!(result.len(), bytes);
        Ok(taken)
    })?;
    Ok(figures)
}

fn shared_length(bytes: SharedBytes) -> u64 {
    bytes.len() as u64
}

/// The same block to a worker again and again, as a shared object.
pub(crate) fn shared(largest: usize) -> anyhow::Result<Figures> {
    let pool = Pool::new(1)?;
    let mut figures = Figures::default();
    let mut block = SharedBytes::new(&[])?;
    common::bandwidth("in_", &mut figures, largest, |bytes| {
        if block.len() != bytes {
            block = SharedBytes::new(&vec![7; bytes])?;
        }
        let begun = Instant::now();
        assert_eq!(pool.apply(shared_length, (block.clone(),))?, bytes as u64);
        Ok(begun.elapsed())
    })?;
    Ok(figures)
}
