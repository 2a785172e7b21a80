//! Descriptors that travel with tasks, parent → worker: over the socket on which the worker replies, whose other direction is used for nothing else after the
//! handshake. They are sent before the message that speaks of them, so a worker that has the message never waits for them.
//!
//! A part is one byte, the number of descriptors that come with it. The kernel limits how many may be on their way; where it refuses, the
//! byte goes alone, and what is missing is the failure of the tasks that need it. The other way nothing is taken: see `sys::socket::receive_into`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::tasks::Unsent;
use crate::sys::socket;

/// Descriptors in one part; the kernel takes 253.
const PART: usize = 128;

/// Sends descriptors without blocking.
pub(crate) fn send<'a>(
    stream: BorrowedFd<'_>,
    attached: impl Iterator<Item = BorrowedFd<'a>>,
) -> Result<(), Unsent> {
    let numbers: Vec<RawFd> = attached.map(|fd| fd.as_raw_fd()).collect();
    for part in numbers.chunks(PART) {
        let count = [part.len() as u8];
        match socket::send_part(stream, &count, part) {
            Ok(()) => {}
            Err(error) if is_gone(&error) => return Err(Unsent::Gone),
            Err(_) => socket::send_part(stream, &count, &[]).map_err(|_| Unsent::Stuck)?,
        }
    }
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}

/// Worker: the next `count` descriptors. `None` stands for one that could not be sent or received.
pub(crate) fn receive(
    stream: BorrowedFd<'_>,
    kept: &mut Vec<Option<OwnedFd>>,
    count: usize,
) -> io::Result<Vec<Option<OwnedFd>>> {
    while kept.len() < count {
        let mut announced = [0];
        let (len, fds) = socket::receive_with(stream, &mut announced)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let missing = usize::from(announced[0]).saturating_sub(fds.len());
        kept.extend(fds.into_iter().map(Some));
        kept.extend(std::iter::repeat_with(|| None).take(missing));
    }
    let rest = kept.split_off(count);
    Ok(std::mem::replace(kept, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;
    use std::os::fd::AsFd;

    #[test]
    fn more_than_fit_into_one_part_arrive_in_order() {
        let (ours, theirs) = socket::stream_pair().unwrap();
        let sent: Vec<_> = (0..300).map(|_| sys::memory::anonymous_file().unwrap()).collect();
        send(ours.as_fd(), sent.iter().map(AsFd::as_fd)).unwrap();
        let mut kept = Vec::new();
        let mut arrived = receive(theirs.as_fd(), &mut kept, 129).unwrap();
        arrived.extend(receive(theirs.as_fd(), &mut kept, 171).unwrap());
        assert!(kept.is_empty());
        let inode = |fd: &OwnedFd| sys::inode(fd.as_fd()).unwrap();
        let arrived: Vec<_> = arrived.iter().map(|fd| inode(fd.as_ref().unwrap())).collect();
        assert_eq!(arrived, sent.iter().map(inode).collect::<Vec<_>>());
    }

    #[test]
    fn a_part_without_its_descriptors_is_not_waited_for() {
        let (ours, theirs) = socket::stream_pair().unwrap();
        socket::send_part(ours.as_fd(), &[3], &[]).unwrap();
        let arrived = receive(theirs.as_fd(), &mut Vec::new(), 3).unwrap();
        assert!(arrived.len() == 3 && arrived.iter().all(Option::is_none));
    }

    #[test]
    fn a_parent_that_is_gone_is_an_error() {
        let (ours, theirs) = socket::stream_pair().unwrap();
        drop(ours);
        assert!(receive(theirs.as_fd(), &mut Vec::new(), 1).is_err());
    }
}
