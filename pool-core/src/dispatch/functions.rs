//! The functions whose tasks a pool has had: each has a number, which is all that a task has to know.

use std::collections::HashMap;

use crate::task::callee::Callee;

/// Numbers count from 0. A function is known by its entry point and its name: a compiler may give functions that do the same one entry point.
#[derive(Debug, Default)]
pub(super) struct Functions {
    numbers: HashMap<(Callee, usize), u32>,
    known: Vec<(Callee, &'static str)>,
    /// Most programs submit the same one many times.
    last: u32,
}

impl Functions {
    #[inline]
    pub(super) fn number(&mut self, callee: Callee, name: &'static str) -> u32 {
        let is_last = |&(known, its_name): &(Callee, &'static str)| {
            known == callee && std::ptr::eq(its_name, name)
        };
        if !self.known.get(self.last as usize).is_some_and(is_last) {
            self.last = self.look_up(callee, name);
        }
        self.last
    }

    fn look_up(&mut self, callee: Callee, name: &'static str) -> u32 {
        let next = self.known.len() as u32;
        let number = *self.numbers.entry((callee, name.as_ptr().addr())).or_insert(next);
        if number == next {
            self.known.push((callee, name));
        }
        number
    }

    #[inline]
    pub(super) fn callee(&self, number: u32) -> Callee {
        self.known[number as usize].0
    }

    pub(super) fn name(&self, number: u32) -> &'static str {
        self.known[number as usize].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_has_a_number_of_its_own() {
        let mut functions = Functions::default();
        let [one, other] = [Callee(8), Callee(-8)];
        let numbers =
            [(one, "one"), (other, "other"), (one, "its twin"), (one, "one"), (other, "other")]
                .map(|(callee, name)| functions.number(callee, name));
        assert_eq!(numbers, [0, 1, 2, 0, 1]);
        assert_eq!((functions.callee(2), functions.name(2)), (one, "its twin"));
    }
}
