//! The child's side: receive, mark as started, call, reply. Single-threaded, on the thread that called `init()`.

mod inbox;
mod outbox;

use std::os::fd::{AsFd, OwnedFd};

use inbox::{End, Inbox};
use outbox::Outbox;

use crate::boot::{self, Role, Summons};
use crate::limits::PROTOCOL_VERSION;
use crate::sys::{process, signal, socket};
use crate::task::{Registry, panics};
use crate::transport::status::StatusPage;
use crate::transport::tasks::TaskReceiver;
use crate::wire::from_worker::{Header, Kind};
use crate::wire::hello::{Boot, Hello};
use crate::{codec, sys};

/// Exit codes of a worker that could not start; the parent's error names them.
const EXIT_BOOT_FAILED: i32 = 101;
/// Exit code of a worker whose task the parent has given up, or whose status page was overwritten.
const EXIT_CONDEMNED: i32 = 102;

/// Serves the parent until it says stop or is gone.
pub(crate) fn run(summons: &Summons, entry: boot::Entry, registry: Registry) -> ! {
    let end = prepare(summons, entry).map(|(inbox, outbox)| inbox.serve(outbox, &registry));
    leave(match end {
        Ok(End::Stop | End::Orphaned) => 0,
        Ok(End::Condemned) => EXIT_CONDEMNED,
        Err(_) => EXIT_BOOT_FAILED,
    })
}

/// Tells the parent that this program never calls `init()`.
pub(crate) fn not_initialized() -> ! {
    let stdin = std::io::stdin();
    // without a parent there is nobody to be told
    let _ = socket::send_all(stdin.as_fd(), &Header::new(Kind::NotInitialized).encode());
    leave(EXIT_BOOT_FAILED)
}

#[expect(clippy::exit, reason = "a worker ends inside init(), whose caller must not go on")]
fn leave(code: i32) -> ! {
    std::process::exit(code)
}

fn prepare(summons: &Summons, entry: boot::Entry) -> std::io::Result<(Inbox, Outbox)> {
    process::arm_parent_death()?;
    if process::parent() != summons.parent && process::parent() != 0 {
        // the parent ended before the line above
        leave(0);
    }
    process::close_inherited()?;
    signal::restore_defaults();
    let stream = process::take_stdin()?;
    let (boot, fds) = receive_boot(&stream)?;
    let [tasks, page, stdout @ ..] = &fds[..] else {
        return Err(std::io::Error::other("descriptors are missing"));
    };
    if let Some(stdout) = stdout.first() {
        process::put(stdout, 1)?;
    }
    process::set_name(&format!("{}-{}", boot.pool, boot.seat));
    if let Some(bytes) = boot.memory_limit {
        process::limit_memory(bytes)?;
    }
    boot::set(Role { depth: boot.depth, entry });
    panics::keep();
    let page = StatusPage::map(page.as_fd())?;
    let mut outbox = Outbox::new(stream, page.lane(), boot.max_result);
    let hello = Hello { version: PROTOCOL_VERSION, depth: boot.depth, image: process::image_id()? };
    outbox.send(Header::new(Kind::Hello), |body| {
        codec::encode(&hello, body, u64::MAX).map_err(|_| sys_error("hello"))
    })?;
    Ok((Inbox::new(TaskReceiver::adopt(tasks)?, page), outbox))
}

fn receive_boot(stream: &OwnedFd) -> std::io::Result<(Boot, Vec<OwnedFd>)> {
    let mut bytes = [0; 1024];
    let (len, fds) = loop {
        match sys::socket::receive_with(stream.as_fd(), &mut bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => break received?,
        }
    };
    let boot: Boot = codec::decode(&bytes[..len]).map_err(std::io::Error::other)?;
    // a parent of another version is told by the hello, and refuses
    Ok((boot, fds))
}

fn sys_error(what: &'static str) -> std::io::Error {
    std::io::Error::other(what)
}
