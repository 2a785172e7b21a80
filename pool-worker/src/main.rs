//! A worker executable with the built-in task kinds and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    pool_worker::builtin::host().run()
}
