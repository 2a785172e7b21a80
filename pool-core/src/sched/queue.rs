//! Tasks that wait, in the order in which they are to be run: by priority, then by their coming.

use std::collections::VecDeque;

use crate::ids::TaskKey;

/// One lane per priority in use, the highest first. Nearly always there is one.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lanes: Vec<(i32, VecDeque<TaskKey>)>,
    len: usize,
}

impl Queue {
    pub(super) fn push_back(&mut self, priority: i32, task: TaskKey) {
        self.lane(priority).push_back(task);
        self.len += 1;
    }

    pub(super) fn push_front(&mut self, priority: i32, task: TaskKey) {
        self.lane(priority).push_front(task);
        self.len += 1;
    }

    fn lane(&mut self, priority: i32) -> &mut VecDeque<TaskKey> {
        let found = self.lanes.binary_search_by(|(other, _)| priority.cmp(other));
        let index = found.unwrap_or_else(|index| {
            self.lanes.insert(index, (priority, VecDeque::new()));
            index
        });
        &mut self.lanes[index].1
    }

    pub(super) fn front(&self) -> Option<TaskKey> {
        self.lanes.iter().find_map(|(_, lane)| lane.front().copied())
    }

    pub(super) fn pop_front(&mut self) -> Option<TaskKey> {
        let index = self.lanes.iter().position(|(_, lane)| !lane.is_empty())?;
        let task = self.lanes[index].1.pop_front();
        self.len -= 1;
        if self.lanes.len() > 1 && self.lanes[index].1.is_empty() {
            self.lanes.remove(index);
        }
        task
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = TaskKey> {
        self.lanes.iter().flat_map(|(_, lane)| lane.iter().copied())
    }

    pub(super) fn clear(&mut self) {
        *self = Queue::default();
    }

    pub(super) fn retain(&mut self, mut stays: impl FnMut(TaskKey) -> bool) {
        self.lanes.iter_mut().for_each(|(_, lane)| lane.retain(|&task| stays(task)));
        self.len = self.lanes.iter().map(|(_, lane)| lane.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_priorities_come_first_and_equals_in_order() {
        let mut queue = Queue::default();
        for (task, priority) in [(1, 0), (2, 5), (3, 0), (4, -1), (5, 5)] {
            queue.push_back(priority, TaskKey(task));
        }
        queue.push_front(0, TaskKey(6));
        assert_eq!(queue.len(), 6);
        queue.retain(|task| task != TaskKey(3));
        let order: Vec<u32> = std::iter::from_fn(|| queue.pop_front()).map(|key| key.0).collect();
        assert_eq!(order, [2, 5, 6, 1, 4]);
        assert!(queue.is_empty() && queue.front().is_none());
    }
}
