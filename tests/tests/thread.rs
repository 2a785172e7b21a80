//! `Thread`: row 175 of C5 of the conformance list.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use std::future::IntoFuture;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use pool_core::{ProcessError, TaskError, Thread, wait};
use pool_tests::{census, eventually};

const NO_TIME: Duration = Duration::ZERO;

fn work(a: u32, b: u32) -> u32 {
    a + b
}

/// A thread that waits until the sender is used or dropped.
fn waiting() -> (mpsc::Sender<u32>, Thread<Option<u32>>) {
    let (sender, receiver) = mpsc::channel();
    (sender, Thread::spawn(move || receiver.recv().ok(), ()).unwrap())
}

#[test]
fn c5_175_life_of_a_thread() {
    let (sender, receiver) = mpsc::channel();
    let thread = Thread::new(move |add: u32| receiver.recv().map(|x: u32| x + add), (1,));
    assert_eq!((thread.id(), thread.native_id(), thread.exit_code()), (None, None, None));
    assert!(!thread.is_alive() && !thread.wait() && !thread.wait_timeout(NO_TIME));
    assert_eq!(thread.join(), Err(ProcessError::NotStarted.into()));
    assert_eq!(thread.join_timeout(NO_TIME), Err(ProcessError::NotStarted.into()));

    thread.start().unwrap();
    assert_eq!(thread.start(), Err(ProcessError::AlreadyStarted));
    let native = thread.native_id().unwrap();
    assert!(census::list("/proc/self/task").contains(&native));
    assert_ne!(thread.id().unwrap(), std::thread::current().id());
    assert!(thread.is_alive() && thread.exit_code().is_none() && thread.daemon());
    assert_eq!(thread.join_timeout(NO_TIME), Err(TaskError::NotReady(NO_TIME)));
    assert!(!thread.wait_timeout(Duration::from_millis(5)));

    sender.send(4).unwrap();
    assert!(thread.wait());
    assert_eq!((thread.exit_code(), thread.is_alive()), (Some(0), false));
    assert_eq!(thread.join(), Ok(Ok(5)), "any other Result is plain data");
    // the kernel takes it off its list just after it has told those who join
    eventually(Duration::from_secs(20), "the system forgets it", || {
        !census::list("/proc/self/task").contains(&native)
    });
    assert_eq!((thread.native_id(), thread.exit_code()), (Some(native), Some(0)));
    assert_eq!(thread.join(), Err(TaskError::AlreadyTaken));
    assert_eq!(thread.start(), Err(ProcessError::AlreadyStarted));
}

#[test]
fn c5_175_names() {
    let thread = Thread::new(work, (1, 2));
    let name = thread.name();
    assert!(name.starts_with("Thread-") && name.ends_with(" (work)"), "{name}");
    thread.set_name("another");
    assert_eq!(thread.name(), "another");
    let own_name = || std::thread::current().name().map(str::to_owned);
    let named = Thread::builder().name("a name").daemon(false).build(own_name, ());
    assert!(!named.daemon());
    named.start().unwrap();
    named.set_name("later");
    assert_eq!((named.join(), named.name()), (Ok(Some("a name".to_owned())), "later".to_owned()));
    let zero = Thread::builder().name("a\0b").spawn(work, (1, 2));
    assert!(matches!(zero, Err(ProcessError::Config(_))));
}

#[test]
fn c5_175_any_function_with_any_arguments() {
    let shared = Arc::new(Mutex::new(1));
    let captured = Arc::clone(&shared);
    let (sender, receiver) = mpsc::channel::<&'static str>();
    // captures that are consumed, and arguments and results that can't be encoded
    let consume = move |sender: mpsc::Sender<&'static str>| {
        drop(sender);
        captured
    };
    let thread = Thread::spawn(consume, (sender,)).unwrap();
    assert!(Arc::ptr_eq(&thread.join().unwrap(), &shared));
    assert!(receiver.recv().is_err());
    let sum =
        |a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8| a + b + c + d + e + f + g + h;
    assert_eq!(Thread::spawn(sum, (1, 2, 3, 4, 5, 6, 7, 8)).unwrap().join(), Ok(36));
    let pointer: fn(u32, u32) -> u32 = work;
    assert_eq!(Thread::spawn(pointer, (1, 2)).unwrap().join(), Ok(3));
    let boxed: Box<dyn FnOnce() -> u8 + Send> = Box::new(|| 9);
    assert_eq!(Thread::spawn(boxed, ()).unwrap().join(), Ok(9));
    let deep = || {
        let frame = std::hint::black_box([1u8; 8 << 20]);
        frame.iter().map(|&byte| u32::from(byte)).sum::<u32>()
    };
    let thread = Thread::builder().stack_size(32 << 20).spawn(deep, ()).unwrap();
    assert_eq!(thread.join(), Ok(8 << 20));
}

#[test]
fn c5_175_failures_are_results() {
    let fails = |ok: bool| -> anyhow::Result<u8> {
        if ok { Ok(7) } else { Err(anyhow::anyhow!("inner").context("outer")) }
    };
    let thread = Thread::spawn(fails, (false,)).unwrap();
    assert!(thread.wait());
    assert_eq!(thread.exit_code(), Some(1));
    assert_eq!(thread.join(), Err(TaskError::Failed("outer: inner".to_owned())));
    assert_eq!((thread.exit_code(), thread.join()), (Some(1), Err(TaskError::AlreadyTaken)));
    let thread = Thread::spawn(fails, (true,)).unwrap();
    assert_eq!((thread.join_timeout(Duration::MAX), thread.exit_code()), (Ok(7), Some(0)));
    let thread = Thread::spawn(|| -> u8 { panic!("{} o'clock", 5) }, ()).unwrap();
    match thread.join() {
        Err(TaskError::Panicked { message, location, .. }) => {
            assert_eq!(message, "5 o'clock");
            assert!(location.contains("thread.rs"), "{location}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(thread.exit_code(), Some(1));
}

#[test]
fn c5_175_panics_of_other_threads_go_to_the_hook_that_was_there() {
    static SEEN: AtomicU32 = AtomicU32::new(0);
    std::panic::set_hook(Box::new(|_| {
        SEEN.fetch_add(1, Ordering::SeqCst);
    }));
    let panics = || -> () { panic!("here") };
    assert!(Thread::spawn(panics, ()).unwrap().join().is_err());
    assert_eq!(SEEN.load(Ordering::SeqCst), 0, "a result, not a message");
    assert!(std::thread::spawn(panics).join().is_err());
    assert_eq!(SEEN.load(Ordering::SeqCst), 1);
    assert!(Thread::spawn(panics, ()).unwrap().join().is_err());
    assert_eq!(SEEN.load(Ordering::SeqCst), 1);
}

#[test]
fn c5_175_a_payload_whose_drop_panics_is_a_result() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the second of two");
        }
    }
    let thread = Thread::spawn(|| -> () { std::panic::panic_any(Bomb) }, ()).unwrap();
    assert!(matches!(thread.join(), Err(TaskError::Panicked { .. })));
}

#[test]
fn c5_175_joining_oneself_is_an_error() {
    let own: Arc<OnceLock<Arc<Thread<bool>>>> = Arc::default();
    let inside = Arc::clone(&own);
    let (go, may_go) = mpsc::channel::<()>();
    let join_self = move || {
        may_go.recv().unwrap();
        let thread = inside.get().unwrap();
        let deadlock = Err(ProcessError::WouldDeadlock.into());
        thread.join() == deadlock && thread.join_timeout(NO_TIME) == deadlock && !thread.wait()
    };
    let thread = Arc::new(Thread::spawn(join_self, ()).unwrap());
    own.set(Arc::clone(&thread)).unwrap();
    go.send(()).unwrap();
    assert_eq!(thread.join(), Ok(true));
}

#[test]
fn c5_175_many_wait_and_one_has_the_result() {
    let (sender, thread) = waiting();
    let results: Vec<_> = std::thread::scope(|scope| {
        let joins: Vec<_> = (0..8).map(|_| scope.spawn(|| thread.join())).collect();
        assert_eq!(wait(&[&thread], Some(NO_TIME)), []);
        sender.send(3).unwrap();
        joins.into_iter().map(|join| join.join().unwrap()).collect()
    });
    let taken = results.iter().filter(|result| **result == Err(TaskError::AlreadyTaken)).count();
    assert_eq!((taken, results.contains(&Ok(Some(3)))), (7, true), "{results:?}");
}

#[test]
fn c5_175_dropping_detaches() {
    let (sender, receiver) = mpsc::channel();
    let (told, tells) = mpsc::channel();
    let body = move || told.send(receiver.recv().unwrap()).unwrap();
    drop(Thread::spawn(body, ()).unwrap());
    sender.send(8).unwrap();
    assert_eq!(tells.recv(), Ok(8));
}

#[test]
fn c5_170_threads_can_be_polled_and_awaited() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let (sender, thread) = waiting();
    let sentinel = thread.sentinel().unwrap();
    let is_readable = |timeout| {
        poll(&mut [PollFd::new(sentinel.as_fd(), PollFlags::POLLIN)], timeout).unwrap() == 1
    };
    assert!(!is_readable(PollTimeout::ZERO));
    drop(sender);
    assert!(is_readable(PollTimeout::NONE));
    assert_eq!(futures::executor::block_on((&thread).into_future()), Ok(None));
    let unstarted = Thread::new(|| 1, ());
    let joined = futures::executor::block_on((&unstarted).into_future());
    assert_eq!(joined, Err(ProcessError::NotStarted.into()));
}
