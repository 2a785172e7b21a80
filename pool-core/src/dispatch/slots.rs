//! The cells for outcomes, each shared by a task and its handle. Many lie in one piece of memory: one piece for each would cost more than what is in it, in bytes and in time.

use std::ops::Deref;
use std::sync::{Arc, Weak};

use super::task::TaskSlot;
use super::{Courier, Shared};
use crate::ids::{TaskId, TaskKey};

/// So many slots lie together. They are freed together too, but what is in them is not kept for that: see [`Slot::abandon`](crate::slot::Slot::abandon).
pub(super) const TOGETHER: usize = 16;

/// No task.
const NOBODY: u32 = u32::MAX;

/// What a handle knows of its pool: it does not keep the pool's state, for whatever a pool had was settled before that is gone.
pub(crate) struct PoolRef {
    shared: Weak<Shared>,
    pub(crate) courier: Arc<Courier>,
    /// The largest result, for messages.
    pub(crate) max_result: u64,
}

impl PoolRef {
    pub(super) fn new(shared: Weak<Shared>, courier: Arc<Courier>, max_result: u64) -> PoolRef {
        PoolRef { shared, courier, max_result }
    }
}

pub(super) struct Row {
    pool_ref: Arc<PoolRef>,
    /// The number of the first one's task; the others follow.
    first: u64,
    slots: [TaskSlot; TOGETHER],
}

impl Row {
    fn new(pool_ref: Arc<PoolRef>, first: u64) -> Arc<Row> {
        Arc::new(Row { pool_ref, first, slots: std::array::from_fn(|_| TaskSlot::new()) })
    }

    #[inline]
    pub(super) fn slot(&self, place: usize) -> &TaskSlot {
        &self.slots[place % TOGETHER]
    }

    #[inline]
    pub(super) fn id(&self, place: usize) -> TaskId {
        TaskId(self.first + place as u64)
    }
}

/// Gives tasks their slots and numbers.
pub(super) struct Slots {
    pool_ref: Arc<PoolRef>,
    row: Arc<Row>,
    /// How many slots of it are in use.
    used: usize,
}

impl Slots {
    pub(super) fn new(pool_ref: Arc<PoolRef>) -> Slots {
        Slots { row: Row::new(Arc::clone(&pool_ref), 1), pool_ref, used: 0 }
    }

    /// The number of the next task.
    #[inline]
    pub(super) fn next_id(&self) -> u64 {
        self.row.first + self.used as u64
    }

    /// The next slot: its row, and its place there.
    #[inline]
    pub(super) fn take(&mut self) -> (Arc<Row>, usize) {
        if self.used == TOGETHER {
            self.row = Row::new(Arc::clone(&self.pool_ref), self.next_id());
            self.used = 0;
        }
        self.used += 1;
        (Arc::clone(&self.row), self.used - 1)
    }
}

/// One slot, with the key of its task: what a handle has.
#[derive(Clone)]
pub(crate) struct SlotRef {
    row: Arc<Row>,
    key: u32,
    place: u8,
}

impl SlotRef {
    #[inline]
    pub(super) fn new(row: Arc<Row>, place: usize, key: Option<TaskKey>) -> SlotRef {
        SlotRef { row, key: key.map_or(NOBODY, |key| key.0), place: place as u8 }
    }

    /// A slot of which the scheduler knows nothing.
    pub(super) fn alone(pool_ref: &Arc<PoolRef>) -> SlotRef {
        SlotRef::new(Row::new(Arc::clone(pool_ref), 0), 0, None)
    }

    /// `None`: the scheduler does not know the task.
    #[inline]
    pub(crate) fn key(&self) -> Option<TaskKey> {
        (self.key != NOBODY).then_some(TaskKey(self.key))
    }

    #[inline]
    pub(crate) fn pool_ref(&self) -> &PoolRef {
        &self.row.pool_ref
    }

    /// The task's pool, with its key there; `None`: neither matters any more.
    pub(crate) fn pool(&self) -> Option<(Arc<Shared>, TaskKey)> {
        let key = self.key()?;
        Some((self.row.pool_ref.shared.upgrade()?, key))
    }

    #[inline]
    pub(super) fn is_at(&self, row: &Arc<Row>, place: usize) -> bool {
        Arc::ptr_eq(&self.row, row) && usize::from(self.place) == place
    }
}

impl Deref for SlotRef {
    type Target = TaskSlot;

    #[inline]
    fn deref(&self) -> &TaskSlot {
        self.row.slot(self.place.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_has_a_slot_and_a_number_of_its_own() {
        let courier = Arc::new(Courier::new("test".to_owned()));
        let pool_ref = Arc::new(PoolRef::new(Weak::new(), courier, 0));
        let mut slots = Slots::new(Arc::clone(&pool_ref));
        let taken: Vec<SlotRef> = (1..=3 * TOGETHER as u64)
            .map(|id| {
                assert_eq!(slots.next_id(), id);
                let (row, place) = slots.take();
                assert_eq!(row.id(place), TaskId(id));
                SlotRef::new(row, place, Some(TaskKey(id as u32)))
            })
            .collect();
        let mut addresses: Vec<_> =
            taken.iter().map(|slot| std::ptr::from_ref(&**slot).addr()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), taken.len());
        assert!(taken[5].is_at(&taken[5].row, 5) && !taken[5].is_at(&taken[5 + TOGETHER].row, 5));
        assert_eq!(taken[5].key(), Some(TaskKey(6)));
        assert_eq!(SlotRef::alone(&pool_ref).key(), None);
    }

    #[test]
    fn what_a_handle_takes_is_known() {
        assert_eq!(size_of::<SlotRef>(), 16);
    }
}
