//! `pool-cli`: runs a batch of tasks in isolated worker processes, from a job file.
//!
//! | module | what it is for |
//! |---|---|
//! | `args` | the command line as it is typed |
//! | `job` | the job file: its shape, its problems, the plan made of it, its inputs |
//! | `run` | carrying out a plan |
//! | `report` | what is told about a run |
//! | `signals`, `exit` | how it is interrupted, how it ends |
//! | `commands` | the commands besides `run` |

mod args;
mod commands;
mod exit;
mod job;
mod report;
mod run;
mod signals;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Its worker processes are copies of this executable and stay inside this call.
    pool_core::init_with(pool_worker::builtin::host().into_registry());
    exit::on_panic();
    commands::main().leave()
}
