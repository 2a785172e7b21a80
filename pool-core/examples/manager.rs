//! Tasks append what they find to a list in a manager; the submitting loop looks at the list, and stops as soon as something is in it.
//!
//! How far the loop gets before it sees the first find varies from run to run; that it stops early does not.
#![expect(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use pool_core::manager::List;
use pool_core::{Manager, Pool};

const CANDIDATES: u64 = 100_000;
const FIRST_FIND: u64 = 20;

/// Finds every number from the twentieth on.
fn search(found: List<u64>, candidate: u64) -> anyhow::Result<()> {
    std::thread::sleep(Duration::from_millis(2)); // real work would be here
    if candidate >= FIRST_FIND {
        found.push(&candidate)?;
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    pool_core::init();
    let manager = Manager::new()?;
    let found = manager.list([])?;
    // few pending tasks: submitting waits for them, and so the loop is not far ahead of what is found
    let pool = Pool::builder().processes(4).max_pending(16).build()?;
    let mut submitted = 0;
    for candidate in 0..CANDIDATES {
        if !found.is_empty()? {
            break;
        }
        drop(pool.apply_async(search, (found.clone(), candidate))?); // it tells by the list
        submitted += 1;
    }
    pool.terminate();
    pool.join()?;

    let finds = found.snapshot()?;
    println!("{submitted} submitted, found {finds:?}");
    assert!(!finds.is_empty() && finds.iter().all(|find| (FIRST_FIND..submitted).contains(find)));
    assert!(submitted < CANDIDATES, "the loop stopped early");
    Ok(())
}
