//! Worker → parent: frames of a 24-byte header and a body, little-endian, over a stream socket. The parent trusts nothing of it.
//!
//! | bytes | header field |
//! |---|---|
//! | 0 | kind |
//! | 1 | zero |
//! | 2..4 | slot of the task |
//! | 4..8 | generation of the slot |
//! | 8..16 | length of the body |
//! | 16..24 | nanoseconds that the task took |

use crate::ids::Lease;
use crate::limits::{FAULT_BYTES, PIECE_BYTES};

/// Length of a header.
pub(crate) const HEADER: usize = 24;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The worker is there; the body is a [`Hello`](super::hello::Hello).
    Hello = 1,
    /// The initializer has run; tasks may come.
    Ready = 2,
    /// The task's encoded result.
    Done = 3,
    /// The task's encoded [`Fault`](crate::task::entry::Fault).
    Fault = 4,
    /// The initializer's encoded fault. The worker leaves.
    InitFailed = 5,
    /// A place of the shared area has been read and may be filled again.
    PieceTaken = 6,
    /// The program runs as a worker but never called `init()`.
    NotInitialized = 7,
    /// Replies lie in the lane.
    Bell = 8,
    /// The finalizer's encoded result.
    Finalized = 9,
    /// The finalizer's encoded fault.
    FinalizerFailed = 10,
    /// What the task has printed; its reply follows.
    Printed = 11,
    /// What of its sandbox it could not apply: encoded texts, between the hello and the rest.
    Unconfined = 12,
    /// In the lane: the task's encoded result, of this length, comes in pieces.
    Large = 13,
    /// In the lane: the task's result is a vector of numbers, whose bytes, so many, come in pieces.
    Numbers = 14,
    /// In the lane: the next piece lies in the area of results.
    Piece = 15,
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) lease: Lease,
    pub(crate) len: u64,
    pub(crate) elapsed_ns: u64,
}

/// The frame is none that a worker of this version sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Header {
    pub(crate) fn new(kind: Kind) -> Header {
        Header { kind, lease: Lease { slot: 0, generation: 0 }, len: 0, elapsed_ns: 0 }
    }

    #[inline]
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = self.kind as u8;
        bytes[2..4].copy_from_slice(&self.lease.slot.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.lease.generation.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.elapsed_ns.to_le_bytes());
        bytes
    }

    /// Checks everything that can be checked without knowing what was asked of the worker: the kind, and that the body is not
    /// longer than such a frame may be.
    #[inline]
    pub(crate) fn decode(bytes: &[u8; HEADER], max_result: u64) -> Result<Header, Malformed> {
        let [kind, 0, s0, s1, g0, g1, g2, g3, rest @ ..] = *bytes else { return Err(Malformed) };
        let [l0, l1, l2, l3, l4, l5, l6, l7, elapsed @ ..] = rest;
        let kind = match kind {
            1 => Kind::Hello,
            2 => Kind::Ready,
            3 => Kind::Done,
            4 => Kind::Fault,
            5 => Kind::InitFailed,
            6 => Kind::PieceTaken,
            7 => Kind::NotInitialized,
            8 => Kind::Bell,
            9 => Kind::Finalized,
            10 => Kind::FinalizerFailed,
            11 => Kind::Printed,
            12 => Kind::Unconfined,
            13 => Kind::Large,
            14 => Kind::Numbers,
            15 => Kind::Piece,
            _ => return Err(Malformed),
        };
        let len = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let longest = match kind {
            Kind::Done | Kind::Finalized | Kind::Large | Kind::Numbers => max_result,
            Kind::Piece => PIECE_BYTES as u64,
            Kind::Fault
            | Kind::Printed
            | Kind::Unconfined
            | Kind::InitFailed
            | Kind::FinalizerFailed
            | Kind::Hello => FAULT_BYTES as u64,
            Kind::Ready | Kind::PieceTaken | Kind::NotInitialized | Kind::Bell => 0,
        };
        if len > longest {
            return Err(Malformed);
        }
        let lease = Lease {
            slot: u16::from_le_bytes([s0, s1]),
            generation: u32::from_le_bytes([g0, g1, g2, g3]),
        };
        Ok(Header { kind, lease, len, elapsed_ns: u64::from_le_bytes(elapsed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_looks_like_this() {
        let header = Header {
            kind: Kind::Done,
            lease: Lease { slot: 258, generation: 7 },
            len: 3,
            elapsed_ns: 256,
        };
        let expected = [3, 0, 2, 1, 7, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            header.encode(),
            expected,
            "raise PROTOCOL_VERSION with any change of the bytes"
        );
        assert_eq!(Header::decode(&expected, 3), Ok(header));
    }

    #[test]
    fn a_body_above_the_limit_is_refused() {
        let header = Header { len: 1 << 62, ..Header::new(Kind::Done) };
        assert_eq!(Header::decode(&header.encode(), u64::MAX >> 3), Err(Malformed));
        let header = Header { len: 1, ..Header::new(Kind::Ready) };
        assert_eq!(Header::decode(&header.encode(), 100), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_mean_themselves(bytes: [u8; HEADER]) {
            if let Ok(header) = Header::decode(&bytes, 1 << 20) {
                prop_assert_eq!(header.encode(), bytes);
                prop_assert!(header.len <= 1 << 20);
            }
        }
    }
}
