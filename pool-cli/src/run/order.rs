//! Results in the order of the inputs: each is held back until those before it are there.

use std::collections::BTreeMap;

/// Lines that wait for their turn.
#[derive(Debug, Default)]
pub(crate) struct Order {
    next: u64,
    held: BTreeMap<u64, String>,
    held_bytes: usize,
}

impl Order {
    /// Takes a line and gives out those whose turn it is.
    pub(crate) fn push(&mut self, index: u64, line: String) -> Vec<String> {
        self.held_bytes += line.len();
        self.held.insert(index, line);
        let mut out = Vec::new();
        while let Some(line) = self.held.remove(&self.next) {
            self.held_bytes -= line.len();
            self.next += 1;
            out.push(line);
        }
        out
    }

    /// Gives out what is left, in order: those before it will never come.
    pub(crate) fn drain(&mut self) -> Vec<String> {
        self.held_bytes = 0;
        std::mem::take(&mut self.held).into_values().collect()
    }

    /// How much is held back.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_in_order_and_the_rest_at_the_end() {
        let mut order = Order::default();
        assert!(order.push(1, "b".into()).is_empty());
        assert_eq!(order.held_bytes(), 1);
        assert_eq!(order.push(0, "a".into()), ["a", "b"]);
        assert!(order.push(5, "f".into()).is_empty());
        assert!(order.push(3, "d".into()).is_empty());
        assert_eq!(order.drain(), ["d", "f"]);
        assert_eq!(order.held_bytes(), 0);
    }
}
