//! Every constant of the pool with its reason. Times are `Duration`s or nanoseconds (`_NS`), sizes are bytes (`_BYTES`).

use std::time::Duration;

/// Version of both directions of the protocol. A worker of another version is refused in the handshake.
pub(crate) const PROTOCOL_VERSION: u32 = 8;

/// Longest first message to a fresh worker: names of at most 200 bytes each, and what is counted on behind them once per level of nesting.
pub(crate) const BOOT_BYTES: usize = 2048;

/// Longest name of a pool or a process: names travel in the first message to each worker.
pub(crate) const NAME_BYTES: usize = 200;

/// What is told of the end of a dead worker's standard error: enough for the message of a failed `assert` or an abort, little enough for a line in a log.
pub(crate) const LAST_LINES: usize = 10;
pub(crate) const LAST_LINES_BYTES: usize = 2 << 10;

/// Tasks that one worker may hold at a time, running one included: the number of slots of its status page. Of tasks of 1 µs, enough for the time between two refills.
pub(crate) const SLOTS: usize = 1024;

/// Messages of tasks that may lie unread in front of a worker. More could fill the socket (ipc-channel's send then blocks: measured at 278 small messages, or
/// about 208 KiB).
pub(crate) const UNREAD_FRAMES: usize = 8;

/// A message of tasks is closed when it holds this much; as much may lie unread before another one is sent. So a socket buffer of 208 KiB has room for all of it, and a worker
/// is busy while the next one is on its way.
pub(crate) const FRAME_BYTES: usize = 96 << 10;

/// Arguments above this size travel through the worker's shared-memory area instead of the message.
pub(crate) const INLINE_BYTES: usize = 80 << 10;

/// Memory that a worker keeps for the next large argument that is to be decoded, and as much for the next large result.
pub(crate) const SPARE_BYTES: usize = 4 << 20;

/// The places of a shared-memory area through which big values pass, and the size of one: some are read while others are filled. Small enough to stay in
/// a core's cache, large enough that a message for each does not count.
pub(crate) const PIECES: u8 = 8;
pub(crate) const PIECE_BYTES: usize = 128 << 10;

/// Arguments of a finished task of more than the first size are freed by the pool's own thread, so that nobody waits for that: giving 64 MiB back to the system takes
/// milliseconds. As long as less than the second size waits for it: what is submitted faster than it is freed must not pile up.
pub(crate) const LARGE_BYTES: usize = 1 << 20;
pub(crate) const ASIDE_BYTES: usize = 128 << 20;

/// Shared objects that may travel with one task: each takes a descriptor in the worker, and a process seldom has more than 1024.
pub(crate) const MAX_ATTACHMENTS: usize = 1000;

/// What a descriptor counts in the size of a message: some 50 may be on their way to a worker at a time, because the kernel limits those of a user
/// that are under way to the number that a process may have open.
pub(crate) const ATTACHMENT_BYTES: u64 = 2 << 10;

/// First and longest time that a wait for another process sleeps before it looks whether that process is still there. The first is short, so that the
/// lock of a process that was killed is had soon; the longest costs a process that waits for hours some 20 looks per second, of some 10 µs each.
pub(crate) const FIRST_SLICE: Duration = Duration::from_millis(1);
pub(crate) const LONGEST_SLICE: Duration = Duration::from_millis(50);

/// Address space for the encoded items of a queue, unless it was created with another size. Memory is taken as it is used.
pub(crate) const QUEUE_BYTES: usize = 64 << 20;

/// Messages above this size go through a pipe as an anonymous file: a socket takes some 200 KiB at a time.
pub(crate) const PACKET_BYTES: usize = 64 << 10;

/// Work that a busy worker is given ahead, by the observed duration of its tasks, if so much waits for all: enough for one wake-up of the parent to serve many
/// tasks, too little to matter when they turn out longer than expected.
pub(crate) const AHEAD_NS: u64 = 2_500_000;

/// Work that it is given ahead although others could begin it at the same time, if there is less than that for all.
pub(crate) const AHEAD_ALONE_NS: u64 = 500_000;

/// Tasks up to this long are still given one ahead: the wake-up is then hidden behind the running task. Longer ones are
/// not, because nothing would be gained and the task might wait behind a slow one.
pub(crate) const ONE_AHEAD_NS: u64 = 2_000_000;

/// A worker that has answered nothing for this long gives back what it has not started, so that others can take it.
pub(crate) const STALL_NS: u64 = 5_000_000;

/// A reply up to this size for which the bell would have to be rung goes by the bell's way itself. Larger ones are quicker through shared memory, and the bell behind them.
pub(crate) const BELL_BYTES: usize = 4 << 10;

/// A worker that answers several tasks in a row tells the parent at the latest after this time, so that one wake-up serves many.
pub(crate) const TELL_NS: u64 = 50_000;

/// The same if nobody waits for just one of these tasks: each wake-up takes the time of several short tasks from a worker. Less than what a worker is given
/// ahead, so that it gets more before it has done that; so also after so many replies that the parent has not read.
pub(crate) const TELL_LATER_NS: u64 = 1_000_000;
pub(crate) const TELL_LATER: u32 = SLOTS as u32 / 2;

/// Whoever waits for the other side looks at shared memory for this long before sleeping: a wake-up costs both sides more than that together, and a
/// longer look would only take time from others.
pub(crate) const SPIN_NS: u64 = 20_000;

/// A task that takes longer is not worth a look: its result is waited for asleep.
pub(crate) const SOON_NS: u64 = 100_000;

/// What is assumed about a function that has not been observed yet: long, so that nothing is queued behind it.
pub(crate) const UNKNOWN_NS: u64 = 10_000_000;

/// Unfinished tasks before `apply_async` blocks, unless the builder says otherwise.
pub(crate) const DEFAULT_MAX_PENDING: usize = 65_536;

/// How long a worker may take from being started to being ready, its initializer included.
pub(crate) const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long children may take to end after SIGTERM before they get SIGKILL.
pub(crate) const DEFAULT_GRACE: Duration = Duration::from_secs(1);

/// Dropping a pool never waits longer than this before it sends SIGKILL.
pub(crate) const DROP_GRACE: Duration = Duration::from_millis(300);

/// How long an out-of-memory kill may explain the end of a worker, from when it is seen in the kernel's count. That several workers were killed is seen at the first of
/// them, and the others follow within moments; what is older killed something else.
pub(crate) const OOM_WINDOW_NS: u64 = 100_000_000;

/// How long a `try_` call waits for a process that holds the lock of a queue or a semaphore: many times what it takes to do what the lock is for, also if the holder has to wait for a
/// CPU. Beyond it, the holder is taken for stopped.
pub(crate) const TRY_LIMIT: Duration = Duration::from_millis(100);

/// Beyond the grace period, `terminate` and `drop` wait this long for killed children to be gone. What is still there then
/// is in an uninterruptible system call; the pool's own thread goes on waiting for it.
pub(crate) const KILL_WAIT: Duration = Duration::from_millis(900);

/// How long a worker that was asked to leave (recycled, or the pool is drained) may take before it is killed.
pub(crate) const RETIRE_NS: u64 = 5_000_000_000;

/// Start failures in a row, without one worker becoming ready and with none alive, after which the pool gives up (twice the number of workers, if
/// that is more).
pub(crate) const START_FAILURES: u32 = 5;

/// A pool that has had a ready worker before goes on trying for at least this long: its program can start, so somebody may be killing workers that
/// are only starting.
pub(crate) const START_PATIENCE_NS: u64 = 10_000_000_000;

/// First and longest pause before a worker that failed to start is tried again.
pub(crate) const BACKOFF_FIRST_NS: u64 = 10_000_000;
pub(crate) const BACKOFF_MAX_NS: u64 = 1_000_000_000;

/// The longest pause before a task is tried again.
pub(crate) const RETRY_PAUSE_MAX_NS: u64 = 60_000_000_000;

/// How often the memory of a worker is looked at, if it is limited.
pub(crate) const MEMORY_CHECK_NS: u64 = 50_000_000;

/// Events that may wait for the user's function before further ones are dropped.
pub(crate) const MAX_EVENTS: usize = 65_536;

/// How deep pools may be nested: a worker of a worker of ... A program that starts a pool in each of its workers would
/// otherwise fill the machine.
pub(crate) const MAX_DEPTH: u32 = 8;

/// Bytes read from one worker before the others get their turn.
pub(crate) const READ_BUDGET_BYTES: usize = 1 << 20;

/// Space that a reader of replies keeps: one read takes at most this much.
pub(crate) const READ_BUFFER_BYTES: usize = 64 << 10;

/// Each text from a worker (error, panic message, backtrace) is cut to this size by the worker.
pub(crate) const TEXT_BYTES: usize = 1 << 20;

/// A frame of texts longer than this is refused by the parent: the longest frame has three texts and some bytes.
pub(crate) const FAULT_BYTES: usize = 4 << 20;

/// Items per chunk that `map` chooses at most, and the size of their values: such a chunk goes by shared memory in one piece, and its buffers are taken from
/// memory that was used before. (Larger ones would each be given back to the system: fresh pages are what large values cost.)
pub(crate) const MAX_CHUNK: usize = 32_768;
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// How many chunks per worker `map` aims for.
pub(crate) const CHUNKS_PER_WORKER: usize = 8;

/// Items that `imap` reads ahead of its consumer, per worker, unless told otherwise.
pub(crate) const IMAP_AHEAD_PER_WORKER: usize = 64;

/// The pool's thread wakes later than this after its time only if the whole process did not run: that time is not charged to tasks and workers.
pub(crate) const PAUSE_NS: u64 = 500_000_000;

/// So many pauses are remembered. Each is longer than [`PAUSE_NS`], so more of them matter only to tasks that run for long anyway.
pub(crate) const PAUSES: usize = 16;

/// A worker that has a task with a time limit, and for this long (or the limit, if that is longer) neither starts it nor gets on with its reply, is
/// stopped or worse, and is killed.
pub(crate) const STILL_NS: u64 = 5_000_000_000;

/// A manager that has been silent for this long while an answer is due is asked on a new connection whether it lives, and has as long again to answer.
pub(crate) const MANAGER_PATIENCE: Duration = Duration::from_secs(5);

/// The longest frame between a manager and its clients; the length of a frame has 32 bits.
pub(crate) const MANAGER_FRAME_BYTES: usize = 1 << 30;

/// What one connection of a manager keeps for reading and writing; what a larger frame needs is given back.
pub(crate) const MANAGER_BUFFER_BYTES: usize = 16 << 10;

/// A manager looks this often whether the client for which it waits is still there.
pub(crate) const MANAGER_SLICE: Duration = Duration::from_millis(100);

/// How long the two sides of a connection to a manager wait awake before they sleep. A client waits longer than it takes to wake the manager on another core (20 to 50
/// microseconds), so that its next request comes while the manager is still awake.
pub(crate) const MANAGER_CLIENT_SPIN: Duration = Duration::from_micros(50);
pub(crate) const MANAGER_SERVER_SPIN: Duration = Duration::from_micros(20);

/// The longest frame that goes to or from a manager through shared memory; it is copied there and back, and longer ones are not held up by a socket.
pub(crate) const MANAGER_LANE_BYTES: usize = 8 << 10;

/// How long an object of a manager is kept, unless told otherwise, when its proxies were passed on and none is known any more: somebody may still have the bytes of one.
pub(crate) const MANAGER_LINGER: Duration = Duration::from_secs(3600);

/// Connections to a manager that may be in the handshake at the same time; further ones are closed.
pub(crate) const MANAGER_STRANGERS: usize = 256;

/// Managers to which a process keeps a connection while it has no proxies of theirs.
pub(crate) const MANAGER_LINKS: usize = 4;
