//! Code that is not trusted, confined: a plugin that was written by somebody else computes, and what it tries besides comes to nothing.
//!
//! In Python there is nothing like it: a worker of `multiprocessing` has all the rights of its user.
#![expect(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use pool_core::{Limit, Pool, PoolError, Sandbox, TaskError};

/// What somebody has sent in. It finds the largest prime below a number, and has other plans too.
fn plugin(below: u64) -> (u64, Vec<String>) {
    let is_prime =
        |n: &u64| *n > 1 && (2..*n).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    let prime = (0..below).rev().find(is_prime).unwrap_or(0);
    let mut loot = Vec::new();
    if let Ok(users) = std::fs::read_to_string("/etc/passwd") {
        loot.push(users);
    }
    loot.extend(std::env::var("SECRET"));
    if std::net::TcpStream::connect("127.0.0.1:80").is_ok() {
        loot.push("a connection".to_owned());
    }
    if std::process::Command::new("true").status().is_ok() {
        loot.push("a process".to_owned());
    }
    (prime, loot)
}

/// One that never ends.
fn endless() -> u64 {
    loop {
        std::hint::spin_loop();
    }
}

fn main() -> anyhow::Result<()> {
    pool_core::init();
    let pool = Pool::builder()
        .processes(2)
        .sandbox(Sandbox::strict())
        .memory_limit(1 << 30)
        .limit(Limit::OpenFiles(32))
        .task_timeout(Duration::from_secs(2))
        // each one begins with a process that nobody has used before
        .max_tasks_per_child(std::num::NonZero::<u64>::MIN)
        .env("PUBLIC", "what it may know")
        .build();
    let pool = match pool {
        Err(PoolError::StartFailed(why)) if why.contains("sandbox") => {
            println!("this kernel can't do it: {why}");
            return Ok(());
        }
        pool => pool?,
    };
    let (prime, loot) = pool.apply(plugin, (1_000_000,))?;
    println!("the plugin has found {prime}, and got hold of {} other things", loot.len());
    assert_eq!(prime, 999_983);
    assert_eq!(loot, Vec::<String>::new());
    assert_eq!(pool.apply(endless, ()), Err(TaskError::TimedOut));
    println!("the one that never ends was ended");
    Ok(())
}
