//! Parent → worker: a message is a sequence of records, little-endian, without padding. The worker trusts them.
//!
//! | record | after the kind byte |
//! |---|---|
//! | task | slot u16, generation u32, callee i64, length u32, input |
//! | big task | slot u16, generation u32, callee i64, length u64, u8: 1 if it is the bytes of a vector of numbers; the input follows in pieces |
//! | piece | place in the shared area u8, length u32 |
//! | initializer | callee i64, length u32, input |
//! | finalizer | callee i64, length u32, input |
//! | attached | number u32 of descriptors that travel with the next task, big task or initializer |
//! | stop | nothing |
//! | elsewhere | nothing; only in the lane |

use crate::ids::Lease;
use crate::task::callee::Callee;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToWorker<'a> {
    /// Run this, unless it has been revoked.
    Task { lease: Lease, callee: Callee, input: &'a [u8] },
    /// Run this when all its pieces are there.
    BigTask { lease: Lease, callee: Callee, len: u64, numbers: bool },
    /// The next piece of the big task's input lies at this place of the shared area.
    Piece { place: u8, len: u32 },
    /// Run this once before the first task.
    Initialize { callee: Callee, input: &'a [u8] },
    /// Run this after the last task, and tell its result.
    Finalize { callee: Callee, input: &'a [u8] },
    /// So many descriptors, sent before, belong to the next record.
    Attached { count: u32 },
    /// Leave when everything before this is done.
    Stop,
    /// The next message of the channel belongs here.
    Elsewhere,
}

const TASK: u8 = 1;
const BIG_TASK: u8 = 2;
const PIECE: u8 = 3;
const INITIALIZE: u8 = 4;
const STOP: u8 = 5;
const FINALIZE: u8 = 6;
const ATTACHED: u8 = 7;
const ELSEWHERE: u8 = 8;

/// Appends a record to a message.
#[inline]
pub(crate) fn push(record: &ToWorker<'_>, out: &mut Vec<u8>) {
    match *record {
        ToWorker::Task { lease, callee, input } => {
            out.reserve(19 + input.len());
            out.push(TASK);
            push_lease(lease, out);
            out.extend_from_slice(&callee.0.to_le_bytes());
            push_bytes(input, out);
        }
        ToWorker::BigTask { lease, callee, len, numbers } => {
            out.push(BIG_TASK);
            push_lease(lease, out);
            out.extend_from_slice(&callee.0.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
            out.push(u8::from(numbers));
        }
        ToWorker::Piece { place, len } => {
            out.extend_from_slice(&[PIECE, place]);
            out.extend_from_slice(&len.to_le_bytes());
        }
        ToWorker::Initialize { callee, input } => {
            out.push(INITIALIZE);
            out.extend_from_slice(&callee.0.to_le_bytes());
            push_bytes(input, out);
        }
        ToWorker::Finalize { callee, input } => {
            out.push(FINALIZE);
            out.extend_from_slice(&callee.0.to_le_bytes());
            push_bytes(input, out);
        }
        ToWorker::Attached { count } => {
            out.push(ATTACHED);
            out.extend_from_slice(&count.to_le_bytes());
        }
        ToWorker::Stop => out.push(STOP),
        ToWorker::Elsewhere => out.push(ELSEWHERE),
    }
}

#[inline]
fn push_lease(lease: Lease, out: &mut Vec<u8>) {
    out.extend_from_slice(&lease.slot.to_le_bytes());
    out.extend_from_slice(&lease.generation.to_le_bytes());
}

#[inline]
fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The records of a message, in order. Ends early if the message is cut short, which only another program could cause.
pub(crate) struct Records<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = ToWorker<'a>;

    fn next(&mut self) -> Option<ToWorker<'a>> {
        let mut rest = self.0;
        let [kind] = take(&mut rest)?;
        let record = match kind {
            TASK => {
                let (lease, callee) = (take_lease(&mut rest)?, take_callee(&mut rest)?);
                ToWorker::Task { lease, callee, input: take_bytes(&mut rest)? }
            }
            BIG_TASK => {
                let (lease, callee) = (take_lease(&mut rest)?, take_callee(&mut rest)?);
                let len = u64::from_le_bytes(take(&mut rest)?);
                let [numbers] = take(&mut rest)?;
                ToWorker::BigTask { lease, callee, len, numbers: numbers != 0 }
            }
            PIECE => {
                let [place] = take(&mut rest)?;
                ToWorker::Piece { place, len: u32::from_le_bytes(take(&mut rest)?) }
            }
            INITIALIZE => {
                let callee = take_callee(&mut rest)?;
                ToWorker::Initialize { callee, input: take_bytes(&mut rest)? }
            }
            FINALIZE => {
                let callee = take_callee(&mut rest)?;
                ToWorker::Finalize { callee, input: take_bytes(&mut rest)? }
            }
            ATTACHED => ToWorker::Attached { count: u32::from_le_bytes(take(&mut rest)?) },
            STOP => ToWorker::Stop,
            ELSEWHERE => ToWorker::Elsewhere,
            _ => return None,
        };
        self.0 = rest;
        Some(record)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, others) = rest.split_first_chunk::<N>()?;
    *rest = others;
    Some(*first)
}

fn take_lease(rest: &mut &[u8]) -> Option<Lease> {
    let slot = u16::from_le_bytes(take(rest)?);
    Some(Lease { slot, generation: u32::from_le_bytes(take(rest)?) })
}

fn take_callee(rest: &mut &[u8]) -> Option<Callee> {
    take(rest).map(|bytes| Callee(i64::from_le_bytes(bytes)))
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u32::from_le_bytes(take(rest)?) as usize;
    let (bytes, others) = rest.split_at_checked(len)?;
    *rest = others;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Lease = Lease { slot: 258, generation: 7 };

    fn all() -> Vec<ToWorker<'static>> {
        vec![
            ToWorker::Initialize { callee: Callee(-1), input: b"i" },
            ToWorker::Attached { count: 300 },
            ToWorker::Task { lease: LEASE, callee: Callee(-300), input: b"abc" },
            ToWorker::BigTask {
                lease: LEASE,
                callee: Callee::BY_NAME,
                len: 1 << 40,
                numbers: true,
            },
            ToWorker::Piece { place: 1, len: 9 },
            ToWorker::Finalize { callee: Callee(5), input: b"" },
            ToWorker::Elsewhere,
            ToWorker::Stop,
        ]
    }

    #[test]
    fn records_survive_the_wire() {
        let mut bytes = Vec::new();
        all().iter().for_each(|record| push(record, &mut bytes));
        assert_eq!(Records(&bytes).collect::<Vec<_>>(), all());
    }

    #[test]
    fn a_task_looks_like_this() {
        let mut bytes = Vec::new();
        push(&ToWorker::Task { lease: LEASE, callee: Callee(-2), input: b"ab" }, &mut bytes);
        let expected = [
            1, 2, 1, 7, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, b'a',
            b'b',
        ];
        assert_eq!(bytes, expected, "raise PROTOCOL_VERSION with any change of the bytes");
    }

    #[test]
    fn cut_messages_end_early() {
        let mut bytes = Vec::new();
        all().iter().for_each(|record| push(record, &mut bytes));
        for len in 0..bytes.len() {
            assert!(Records(&bytes[..len]).count() < all().len());
        }
    }
}
