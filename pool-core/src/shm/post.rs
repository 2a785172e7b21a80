//! Descriptors of shared objects on their way through another one: what an item of a queue holds is kept by the kernel, not by who has put it in.
//!
//! A post is a pair of sockets. What is sent into the *entrance* is taken out of the *exit*. Only the entrance is ever passed on; the exit, and the memory of the
//! object, lie in a message that is always there to be looked at by whoever has the entrance. So such an object is one descriptor like any other, whoever
//! has it can send and take out, and what is on its way is lost only when nobody has the object any more.
//!
//! Each message has a number and a place. It is sent before the item that speaks of it is there, looked at before the item is taken, and removed
//! afterwards. So who is killed in between leaves a message too many, never one too few; the next ones know it by its number, and skip it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

use crate::sys::poll::{Ready, wait_for};
use crate::sys::socket;

/// Descriptors in one message: the kernel passes 253.
pub(crate) const MOST_DESCRIPTORS: usize = 250;

/// Messages that nobody speaks of are skipped, so many at a time. There is one for each process that was killed at a bad moment; more are noise.
const MOST_SKIPPED: usize = 1024;

/// The end of a post by which things are sent, and the other one if this process has it.
#[derive(Debug)]
pub(crate) struct Post<'a> {
    entrance: BorrowedFd<'a>,
    exit: &'a OnceLock<OwnedFd>,
}

/// What a message says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// Higher than that of all messages before.
    pub(crate) number: u64,
    /// Where the item is to lie that speaks of it.
    pub(crate) place: u64,
}

const LABEL_BYTES: usize = 8 + 8 + 4;

impl Label {
    fn write(self, count: usize) -> [u8; LABEL_BYTES] {
        let mut bytes = [0; LABEL_BYTES];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.place.to_le_bytes());
        bytes[16..].copy_from_slice(&(count as u32).to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8; LABEL_BYTES]) -> (Label, usize) {
        let word = |at: usize| {
            bytes[at..].first_chunk().map_or(0, |chunk: &[u8; 8]| u64::from_le_bytes(*chunk))
        };
        let count = bytes[16..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk));
        (Label { number: word(0), place: word(8) }, count as usize)
    }
}

/// A new post for an object with this memory: its entrance.
pub(crate) fn create(memory: &OwnedFd) -> io::Result<OwnedFd> {
    let (entrance, exit) = socket::packet_pair()?;
    socket::send_part(exit.as_fd(), &[0], &[memory.as_raw_fd(), exit.as_raw_fd()])
        .map_err(explained)?;
    Ok(entrance)
}

/// The memory of the object that has this entrance.
pub(crate) fn memory(entrance: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    contents(entrance).map(|[memory, _]| memory)
}

/// A message that stays where it is.
fn contents(entrance: BorrowedFd<'_>) -> io::Result<[OwnedFd; 2]> {
    let (_, fds) = socket::peek_packet(entrance, &mut [0])?;
    let missing = "an object's memory did not arrive: are too many files open?";
    fds.try_into().map_err(|_| io::Error::other(missing))
}

/// The kernel's words for it are no help.
fn explained(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(socket::TOO_MANY_UNDER_WAY) {
        io::Error::other(
            "as many descriptors of this user are on their way as a process may have open (ulimit -n): raise that limit, or have fewer shared objects in queues",
        )
    } else {
        error
    }
}

impl<'a> Post<'a> {
    pub(crate) fn of(entrance: BorrowedFd<'a>, exit: &'a OnceLock<OwnedFd>) -> Post<'a> {
        Post { entrance, exit }
    }

    fn exit(&self) -> io::Result<BorrowedFd<'a>> {
        if let Some(exit) = self.exit.get() {
            return Ok(exit.as_fd());
        }
        let [_, exit] = contents(self.entrance)?;
        Ok(self.exit.get_or_init(|| exit).as_fd())
    }

    /// Sends descriptors. `false`: there is no room just now.
    pub(crate) fn send(&self, label: Label, fds: &[RawFd]) -> io::Result<bool> {
        match socket::send_part(self.entrance, &label.write(fds.len()), fds) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(explained(error)),
        }
    }

    /// Whether something could be sent just now, by a cautious guess.
    pub(crate) fn has_room(&self) -> bool {
        wait_for(self.entrance, Ready::ToWrite, Duration::ZERO).unwrap_or(true)
    }

    /// The descriptors of the message with this number, which stays; those before it are removed. `None`: it is not there.
    ///
    /// Nobody else may take things out meanwhile.
    pub(crate) fn look(&self, number: u64) -> io::Result<Option<Vec<OwnedFd>>> {
        let exit = self.exit()?;
        for _ in 0..MOST_SKIPPED {
            let mut bytes = [0; LABEL_BYTES];
            let (len, fds) = match socket::peek_packet(exit, &mut bytes) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            if len == 0 {
                return Ok(None);
            }
            let (label, count) = Label::read(&bytes);
            if label.number > number {
                return Ok(None);
            }
            if label.number == number && len == LABEL_BYTES {
                let missing = "no descriptor is free: close some files, or raise ulimit -n";
                return if fds.len() == count {
                    Ok(Some(fds))
                } else {
                    Err(io::Error::other(missing))
                };
            }
            socket::drop_packet(exit)?;
        }
        Ok(None)
    }

    /// Removes the first message, which [`look`](Post::look) has found.
    pub(crate) fn remove(&self) {
        if let Some(exit) = self.exit.get() {
            // what is left is skipped by the next one
            let _ = socket::drop_packet(exit.as_fd());
        }
    }

    /// Removes messages from the front whose places are `stale`: nobody will look for them. Nobody else may send or take out meanwhile.
    pub(crate) fn clear(&self, stale: impl Fn(u64) -> bool) -> io::Result<()> {
        let exit = self.exit()?;
        let mut bytes = [0; LABEL_BYTES];
        while let Ok(LABEL_BYTES) = socket::peek_bytes(exit, &mut bytes)
            && stale(Label::read(&bytes).0.place)
        {
            socket::drop_packet(exit)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{inode, memory::anonymous_file};

    fn post() -> (OwnedFd, OnceLock<OwnedFd>) {
        (create(&anonymous_file().unwrap()).unwrap(), OnceLock::new())
    }

    fn send(post: &Post<'_>, number: u64, fd: &OwnedFd) -> bool {
        post.send(Label { number, place: number }, &[fd.as_raw_fd()]).unwrap()
    }

    #[test]
    fn what_is_sent_is_found_by_its_number_and_what_was_left_is_skipped() {
        let (entrance, exit) = post();
        let post = Post::of(entrance.as_fd(), &exit);
        let files: Vec<_> = (0..4).map(|_| anonymous_file().unwrap()).collect();
        for (i, file) in files.iter().enumerate() {
            assert!(send(&post, i as u64, file));
        }
        // 0 was left by somebody; 1 is looked at by one who is killed before he takes it, and then again
        for _ in 0..2 {
            let found = post.look(1).unwrap().unwrap();
            assert_eq!(inode(found[0].as_fd()).unwrap(), inode(files[1].as_fd()).unwrap());
        }
        // it is taken by one who is killed before he removes it
        assert!(post.look(2).unwrap().is_some());
        post.remove();
        assert!(post.look(2).unwrap().is_none(), "3 is not 2");
        assert!(post.look(3).unwrap().is_some());
        post.remove();
        assert!(post.look(4).unwrap().is_none());
    }

    #[test]
    fn what_is_left_does_not_take_the_room_for_ever() {
        let (entrance, exit) = post();
        let post = Post::of(entrance.as_fd(), &exit);
        let file = anonymous_file().unwrap();
        let fit = (0..).find(|number| !send(&post, *number, &file)).unwrap();
        assert!(fit > 100 && !post.has_room());
        post.clear(|place| place < fit - 1).unwrap();
        assert!(send(&post, fit, &file) && post.has_room());
        assert!(post.look(fit - 1).unwrap().is_some());
    }

    #[test]
    fn noise_is_no_message() {
        let (entrance, exit) = post();
        let post = Post::of(entrance.as_fd(), &exit);
        let file = anonymous_file().unwrap();
        for noise in [&[1][..], &[0; 100]] {
            socket::send_part(entrance.as_fd(), noise, &[file.as_raw_fd()]).unwrap();
        }
        assert!(send(&post, 7, &file));
        assert_eq!(post.look(7).unwrap().unwrap().len(), 1);
    }

    #[test]
    fn the_memory_is_had_as_often_as_it_is_asked_for() {
        let file = anonymous_file().unwrap();
        let entrance = create(&file).unwrap();
        let wanted = inode(file.as_fd()).unwrap();
        drop(file);
        for _ in 0..3 {
            assert_eq!(inode(memory(entrance.as_fd()).unwrap().as_fd()).unwrap(), wanted);
        }
        let (stranger, _other) = socket::packet_pair().unwrap();
        memory(stranger.as_fd()).unwrap_err();
        memory(anonymous_file().unwrap().as_fd()).unwrap_err();
    }
}
