//! Parent or worker? The only global state of the library: the role of this process.

use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use crate::sys::{self, process};
use crate::task::Registry;
use crate::wire::hello::Kin;
use crate::worker;

/// Set for workers: `inode of standard input : process id of the parent`.
pub(crate) const SUMMONS: &str = "POOL_CORE_WORKER";

/// Name of the test that a test binary runs to become a worker.
pub(crate) const TEST_ENTRY: &str = "pool_core_test_support";

static ROLE: OnceLock<Role> = OnceLock::new();

/// Set in workers only.
static FAMILY: OnceLock<Family> = OnceLock::new();

/// What this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Role {
    /// 0 for the first program, 1 for its workers, 2 for their workers.
    pub(crate) depth: u32,
    /// How a copy of this executable becomes a worker.
    pub(crate) entry: Entry,
}

/// Who this process is and who has started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) kin: Kin,
    /// Process id of the parent.
    pub(crate) parent: u32,
    /// Of the process that has made this one: the parent, or its fork server, which ends with it.
    pub(crate) maker: u32,
}

/// How a copy of this executable becomes a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// By `init()` in `main`.
    Main,
    /// By the test that [`test_support!`](crate::test_support) has added.
    Test,
}

/// Must come first in `main`: in a worker process, this call receives tasks and never returns; in the parent, it returns at once.
///
/// What stands before it in `main` runs in every worker too. A program that forgets it gets
/// [`PoolError::InitNotCalled`](crate::PoolError::InitNotCalled) or a similar error from
/// [`build`](crate::PoolBuilder::build). Call it on the main thread; in tests use [`test_support!`](crate::test_support).
///
/// Workers are started without the parent's command-line arguments. A program that uses an async runtime starts it after this call, in a `main`
/// that is not async itself; under `#[tokio::main]`, each worker would start a runtime around its tasks.
///
/// ```no_run
/// fn main() -> anyhow::Result<()> {
///     pool_core::init();
///     let pool = pool_core::Pool::new(2)?;
///     assert_eq!(pool.apply(u32::pow, (2, 10))?, 1024);
///     Ok(())
/// }
/// ```
pub fn init() {
    init_with(Registry::new());
}

/// Like [`init`], for an executable that offers functions by name to pools of other executables
/// ([`PoolBuilder::executable`](crate::PoolBuilder::executable)).
///
/// ```no_run
/// let registry = pool_core::Registry::new().register("double", |input| Ok(input.repeat(2)));
/// pool_core::init_with(registry);
/// ```
pub fn init_with(registry: Registry) {
    if let Some(summons) = summons() {
        worker::run(&summons, Entry::Main, registry);
    }
    // a test harness that calls init() in a test: its copies would run all tests
    if process::on_main_thread() {
        set(Role { depth: 0, entry: Entry::Main });
    }
}

/// Not public: what [`test_support!`](crate::test_support) expands to.
#[doc(hidden)]
pub fn __test_entry() {
    if let Some(summons) = summons() {
        worker::run(&summons, Entry::Test, Registry::new());
    }
}

/// Makes pools work inside ordinary `#[test]` functions: one line, anywhere in the test crate.
///
/// The workers of a pool are copies of the test binary; they are started with arguments that make the harness run only the test
/// that this macro adds, which never returns in a worker and does nothing in a normal run of the tests.
///
/// ```
/// pool_core::test_support!();
///
/// fn squares() { // a function like this, with the attribute of a test
///     let pool = pool_core::Pool::new(2).unwrap();
///     assert_eq!(pool.map(|x: u64| x * x, [1, 2, 3]).unwrap(), [1, 4, 9]);
/// }
/// ```
#[macro_export]
macro_rules! test_support {
    () => {
        #[test]
        fn pool_core_test_support() {
            $crate::__test_entry();
        }
    };
}

pub(crate) fn set(role: Role) {
    // the first call decides
    let _ = ROLE.set(role);
}

pub(crate) fn set_family(family: Family) {
    let _ = FAMILY.set(family);
}

/// Who has started this process; `None` in the first program.
pub(crate) fn family() -> Option<&'static Family> {
    FAMILY.get()
}

/// The name of this process.
pub(crate) fn name() -> &'static str {
    family().map_or("MainProcess", |family| &family.kin.name)
}

/// What this process is. Without a call of `init()` it may be a test binary: pools are tried that way.
pub(crate) fn role() -> Role {
    *ROLE.get().unwrap_or(&Role { depth: 0, entry: Entry::Test })
}

/// A worker whose program got as far as building a pool has not called `init()`: its parent is told, and it ends.
pub(crate) fn end_if_forgotten() {
    if ROLE.get().is_none() && summons().is_some() {
        worker::not_initialized();
    }
}

/// The request to be a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summons {
    pub(crate) parent: u32,
}

impl Summons {
    /// The text for the environment of the worker whose standard input has this inode.
    pub(crate) fn text(inode: u64, parent: u32) -> String {
        format!("{inode}:{parent}")
    }
}

/// The variable may have been inherited from a worker by a program that a task has started. Standard input tells: only a worker has
/// the socket there that the variable names.
fn summons() -> Option<Summons> {
    let text = std::env::var(SUMMONS).ok()?;
    let (inode, parent) = text.split_once(':')?;
    let stdin = std::io::stdin();
    let stdin: BorrowedFd<'_> = std::os::fd::AsFd::as_fd(&stdin);
    let ours = sys::inode(stdin).ok()?;
    (ours == inode.parse().ok()?).then_some(Summons { parent: parent.parse().ok()? })
}
