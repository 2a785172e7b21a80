//! Where what workers print goes.

/// Where the standard output or standard error of worker processes goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// To the parent's. The pool does not read it, so the error of a lost worker can't tell its last lines.
    #[default]
    Inherit,
    /// Nowhere.
    Discard,
    /// To the parent's, line by line, each with the name of its worker before it: `[pool-3] `. Lines of several workers don't mix. [`join`](crate::Pool::join)
    /// waits until all is written.
    Tagged,
    /// Kept for the task that has printed it, also if the task fails or its worker dies: [`AsyncResult::output`](crate::AsyncResult::output). What the initializer prints is kept for the
    /// first task.
    Captured,
}

/// What a task has printed, as far as it was [captured](Output::Captured).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskOutput {
    /// Its standard output: at most the first MiB.
    pub stdout: Vec<u8>,
    /// Its standard error: at most the first MiB.
    pub stderr: Vec<u8>,
}

impl TaskOutput {
    /// For the wire: the length of the first part, then both.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.stdout.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.stdout);
        out.extend_from_slice(&self.stderr);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<TaskOutput> {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (stdout, stderr) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        Some(TaskOutput { stdout: stdout.to_vec(), stderr: stderr.to_vec() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.stdout.is_empty() && self.stderr.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_survive_the_wire() {
        let output = TaskOutput { stdout: b"one".to_vec(), stderr: b"two!".to_vec() };
        let mut bytes = Vec::new();
        output.encode(&mut bytes);
        assert_eq!(TaskOutput::decode(&bytes), Some(output));
        assert_eq!(TaskOutput::decode(&bytes[..5]), None);
        assert_eq!(TaskOutput::decode(&[]), None);
    }
}
