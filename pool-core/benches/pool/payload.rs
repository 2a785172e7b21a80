//! Large arguments and results.

use std::time::Instant;

use pool_core::{Pool, SharedBytes};
use serde_bytes::ByteBuf;

use crate::common::{self, Figures, length, make};

/// Byte vectors to a worker, and from it, one call at a time; up to so many bytes. And to a worker beside another argument, as they are and as serde_bytes has them.
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
    let largest = largest.min(1 << 20);
    common::bandwidth("beside_", &mut figures, largest, |bytes| {
        let argument = (vec![7; bytes], 1);
        let begun = Instant::now();
        assert_eq!(pool.apply(length_beside, argument)?, bytes as u64 + 1);
        Ok(begun.elapsed())
    })?;
    common::bandwidth("byte_buf_", &mut figures, largest, |bytes| {
        let argument = (ByteBuf::from(vec![7; bytes]), 1);
        let begun = Instant::now();
        assert_eq!(pool.apply(byte_buf_length_beside, argument)?, bytes as u64 + 1);
        Ok(begun.elapsed())
    })?;
    Ok(figures)
}

fn length_beside(bytes: Vec<u8>, other: u64) -> u64 {
    bytes.len() as u64 + other
}

fn byte_buf_length_beside(bytes: ByteBuf, other: u64) -> u64 {
    bytes.len() as u64 + other
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
