//! Signals of the operating system as events of the run.
//!
//! | signal | first | again |
//! |---|---|---|
//! | SIGINT | start no more, let what runs finish | kill what runs; a third ends the command on the spot |
//! | SIGTERM, SIGHUP | the same, but what runs gets `term_grace` and is then killed | ignored |
//! | SIGTSTP (Ctrl-Z) | stop the workers, then the command; SIGCONT lets both go on | the same |
//! | SIGUSR1 | print progress | the same |
//!
//! SIGINT, SIGHUP and SIGTSTP stay ignored if they were ignored at the start, as `nohup` and a shell's background jobs want it.

use std::fs;
use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// How many SIGINTs end the command on the spot, whatever it is doing.
const LAST_INTERRUPT: u32 = 3;

/// Passes each signal on from a thread of its own.
pub(crate) fn listen(pass_on: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let wanted = [SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGUSR1];
    let stays_ignored =
        |signal: i32| matches!(signal, SIGINT | SIGHUP | SIGTSTP) && is_ignored(signal, &status);
    let mut signals = Signals::new(wanted.into_iter().filter(|signal| !stays_ignored(*signal)))?;
    let forward = move || {
        let mut interrupts = 0;
        for signal in signals.forever() {
            interrupts += u32::from(signal == SIGINT);
            if interrupts == LAST_INTERRUPT {
                // The workers notice that their parent is gone and end too.
                let _ = emulate_default_handler(SIGINT);
            }
            pass_on(signal);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(forward).map(drop)
}

/// Stops this process, as the terminal would have done, and returns when it goes on.
pub(crate) fn stop_here() {
    // the shell is told the other signal that stops, because this one is caught
    let _ = emulate_default_handler(SIGTSTP);
}

/// Reads the mask of ignored signals from `/proc/self/status`: bit n-1 of a hexadecimal number stands for signal n.
fn is_ignored(signal: i32, status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inherited_ignores_are_read_from_the_mask() {
        let status = "Name:\tx\nSigBlk:\t0000000000000003\nSigIgn:\t0000000000001001\n";
        assert!(is_ignored(SIGHUP, status));
        assert!(is_ignored(signal_hook::consts::SIGPIPE, status));
        assert!(!is_ignored(SIGINT, status));
        assert!(!is_ignored(SIGHUP, ""));
    }
}
