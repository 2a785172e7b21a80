//! A crashing C function, isolated: what would end a program with threads costs one task here, and the error names the signal.
//!
//! In Python, a worker of `multiprocessing.Pool` that dies takes its task along without a word: `get` waits for ever. With
//! `concurrent.futures.ProcessPoolExecutor` all tasks fail and the pool can't be used any more.
#![expect(clippy::print_stdout, reason = "an example")]
#![expect(unsafe_code, reason = "it calls C functions, and calls them wrongly")]

use std::ffi::{CString, c_char};
use std::hint::black_box;

use pool_core::{ExitCause, Pool, TaskError};

/// What a binding to a C library looks like, and what happens if the library has a bug for one of its inputs.
fn length_in_c(text: Option<String>) -> anyhow::Result<usize> {
    let text = text.map(CString::new).transpose()?;
    let pointer: *const c_char = text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: for a string, the pointer leads to its bytes and the zero behind them. Without one it is null, and the process
    // ends by reading from there, which is what this example is about; nothing of it is used afterwards.
    Ok(unsafe { libc::strlen(black_box(pointer)) })
}

/// C code gives up: a failed `assert`, a corrupted heap.
fn abort_in_c() {
    // SAFETY: ends this process, and has no other requirement.
    unsafe { libc::abort() }
}

/// C code thinks that it is the whole program.
fn exit_in_c() {
    // SAFETY: ends this process, which has only this thread.
    unsafe { libc::_exit(3) }
}

fn cause(error: Option<TaskError>) -> Option<ExitCause> {
    let error = error?;
    println!("  {error}");
    match error {
        TaskError::WorkerLost { cause, .. } => Some(cause),
        _ => None,
    }
}

fn signal(error: Option<TaskError>) -> Option<i32> {
    match cause(error)? {
        ExitCause::Signaled { signal, .. } => Some(signal),
        _ => None,
    }
}

fn main() -> anyhow::Result<()> {
    pool_core::init(); // worker processes stay inside this call
    let pool = Pool::new(2)?;

    // 100 tasks; two of them crash, before, between and after good ones that go on in other workers
    let inputs = (0..100).map(|i| (i % 50 != 25).then(|| "x".repeat(i)));
    let handles: Vec<_> =
        inputs.map(|text| pool.apply_async(length_in_c, (text,))).collect::<Result<_, _>>()?;
    println!("tasks that were lost, each with its own worker:");
    for (i, handle) in handles.into_iter().enumerate() {
        match handle.get() {
            Ok(length) => assert_eq!(length, i),
            lost => {
                assert_eq!(i % 50, 25, "only what crashes is lost");
                assert_eq!(signal(lost.err()), Some(libc::SIGSEGV));
            }
        }
    }
    assert_eq!(signal(pool.apply(abort_in_c, ()).err()), Some(libc::SIGABRT));
    assert_eq!(cause(pool.apply(exit_in_c, ()).err()), Some(ExitCause::Exited(3)));

    // in a map, the unit that is lost is a chunk: with chunks of one item it is that item alone
    let texts = ["good", "bad", "good"].map(|text| (text != "bad").then(|| text.to_owned()));
    let outcomes = pool.task(length_in_c).chunk_size(1).map_async(texts)?.get_each();
    assert_eq!(
        outcomes.iter().map(|o| o.as_ref().ok()).collect::<Vec<_>>(),
        [Some(&4), None, Some(&4)]
    );

    // the pool is as good as new: each lost worker was replaced
    assert_eq!(pool.apply(length_in_c, (Some("still here".to_owned()),))?, 10);
    assert_eq!(pool.stats().workers_lost, 5);
    pool.close();
    pool.join()?;
    println!("5 workers crashed, 5 tasks were lost, all others are done");
    Ok(())
}
