//! Positions in a ring, with the number of items up to there: both move in one store, so that whoever is killed leaves either both or none.
//!
//! `items << 36 | position`, the position in units of 8 bytes. Both wrap around by themselves; what counts is their distance.

/// Bits of a position: 512 GiB pass before it begins again. The size of a ring is a power of two, so it divides them.
const POSITION_BITS: u32 = 36;
const POSITIONS: u64 = 1 << POSITION_BITS;
const ITEMS: u64 = 1 << (64 - POSITION_BITS);

/// Items that a ring holds at most.
pub(super) const MOST_ITEMS: u64 = ITEMS - 1;

/// Units that a ring has at most.
pub(super) const MOST_UNITS: u64 = POSITIONS / 2;

/// Bytes of a unit.
pub(super) const UNIT: usize = 8;

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor(pub(super) u64);

/// What lies between two cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Distance {
    pub(super) items: u64,
    pub(super) units: u64,
}

impl Cursor {
    fn position(self) -> u64 {
        self.0 % POSITIONS
    }

    pub(super) fn items(self) -> u64 {
        self.0 >> POSITION_BITS
    }

    /// Where this is in a ring of so many units.
    pub(super) fn offset(self, ring: u64) -> u64 {
        self.position() % ring
    }

    /// Behind the next so many units, and so many items.
    pub(super) fn advance(self, units: u64, items: u64) -> Cursor {
        let position = (self.position() + units) % POSITIONS;
        Cursor((((self.items() + items) % ITEMS) << POSITION_BITS) | position)
    }

    /// How far it is to `later`.
    pub(super) fn until(self, later: Cursor) -> Distance {
        let units = later.position().wrapping_sub(self.position()) % POSITIONS;
        let items = later.items().wrapping_sub(self.items()) % ITEMS;
        Distance { items, units }
    }
}

/// Units that an item of so many bytes takes, its length included.
pub(super) fn units_of(len: usize) -> u64 {
    1 + len.div_ceil(UNIT) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_distance_is_what_was_advanced(start: u64, steps in prop::collection::vec((0..1000_u64, 0..3_u64), 0..50)) {
            let start = Cursor(start);
            let mut cursor = start;
            for (units, items) in &steps {
                cursor = cursor.advance(*units, *items);
            }
            let units = steps.iter().map(|step| step.0).sum();
            let items = steps.iter().map(|step| step.1).sum();
            prop_assert_eq!(start.until(cursor), Distance { items, units });
            prop_assert_eq!(cursor.offset(1 << 10), (start.offset(1 << 10) + units) % (1 << 10));
        }
    }

    #[test]
    fn sizes_are_in_whole_units() {
        assert_eq!([0, 1, 8, 9].map(units_of), [1, 2, 2, 3]);
    }
}
