//! What the task that has just run has printed, if that is captured.

use std::io::Write;
use std::os::fd::AsFd;

use crate::limits::TEXT_BYTES;
use crate::output::TaskOutput;
use crate::sys::capture;

/// Which standard streams are files that are emptied after each task.
#[derive(Debug)]
pub(super) struct Capture {
    stdout: bool,
    stderr: bool,
}

impl Capture {
    pub(super) fn new([stdout, stderr]: [bool; 2]) -> Capture {
        Capture { stdout, stderr }
    }

    /// Takes out what was printed since the last call. What can't be read is lost, which must not cost the result.
    pub(super) fn take(&self) -> Option<TaskOutput> {
        if !self.stdout && !self.stderr {
            return None;
        }
        let (mut stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let _ = stdout.flush();
        capture::flush_c_streams();
        let mut output = TaskOutput::default();
        if self.stdout {
            output.stdout = capture::take_captured(stdout.as_fd(), TEXT_BYTES).unwrap_or_default();
        }
        if self.stderr {
            output.stderr = capture::take_captured(stderr.as_fd(), TEXT_BYTES).unwrap_or_default();
        }
        (!output.is_empty()).then_some(output)
    }
}
