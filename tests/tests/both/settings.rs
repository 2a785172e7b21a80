//! Settings of a pool: what makes no sense, or can't be kept, is refused by `build`.

use std::time::Duration;

use pool_core::{Limit, Output, Pool, PoolBuilder, PoolError, Sandbox, StartMethod};
use pool_tests::Case;

use crate::{Backend, square, squares};

with_both![c1_17_senseless_settings_are_refused, c1_17_the_default_is_a_worker_per_cpu,];

#[track_caller]
fn assert_refused(builder: PoolBuilder, word: &str) {
    let error = builder.build().unwrap_err();
    assert!(matches!(&error, PoolError::Config(text) if text.contains(word)), "{word}: {error:?}");
}

fn c1_17_senseless_settings_are_refused(backend: Backend) {
    let case = Case::new();
    let size = if backend.is_threads() { "threads" } else { "processes" };
    let one = || backend.builder(&case, 1);
    for count in [0, 16_385, 1 << 40] {
        assert_refused(backend.builder(&case, count), size);
    }
    assert_refused(one().max_pending(0), "max_pending");
    assert_refused(one().min_size(0), "min_size");
    assert_refused(one().min_size(2), "min_size");
    assert_refused(one().crash_limit(0), "crash_limit");
    assert_refused(one().idle_timeout(Duration::ZERO), "zero");
    assert_refused(one().idle_timeout(Duration::from_secs(1)), "min_size");
    assert_refused(one().max_age(Duration::ZERO), "zero");
    assert_refused(one().start_timeout(Duration::ZERO), "zero");
    assert_refused(one().name("n".repeat(201)), "name");
    assert_refused(one().name("with\0zero"), "name");
    let large = vec![7u8; 1 << 20];
    assert_refused(
        one().initializer(|bytes: Vec<u8>| bytes.len(), (large.clone(),)),
        "initializer",
    );
    assert_refused(one().finalizer(|bytes: Vec<u8>| bytes.len(), (large,)), "finalizer");
    // and what makes sense is not
    let pool =
        one().min_size(1).max_pending(1).crash_limit(1).name("n".repeat(200)).build().unwrap();
    assert_eq!(pool.apply(square, (3,)), Ok(9));
    assert_eq!(pool.map(square, 0..10).unwrap(), squares(0..10));
}

fn c1_17_the_default_is_a_worker_per_cpu(backend: Backend) {
    let _case = Case::new();
    let cpus = std::thread::available_parallelism().unwrap().get();
    let pool = match backend {
        Backend::Processes => Pool::builder().build(),
        Backend::Threads => pool_core::dummy::Pool::builder().build().map(Pool::from),
    };
    let pool = pool.unwrap();
    assert_eq!(pool.workers().len(), cpus);
    let here = pool.workers().iter().all(|worker| worker.pid() == std::process::id());
    assert_eq!(here, backend.is_threads());
}

#[test]
fn c5_175_threads_refuse_what_only_processes_can_keep() {
    let _case = Case::new();
    let one = || Pool::builder().threads(1);
    assert_refused(one().task_timeout(Duration::from_secs(1)), "task_timeout");
    assert_refused(one().memory_limit(1 << 30), "memory_limit");
    assert_refused(one().max_memory_per_child(1 << 30), "max_memory_per_child");
    assert_refused(one().executable("/bin/true"), "executable");
    assert_refused(one().env("A", "b"), "env");
    assert_refused(one().env_remove("A"), "env");
    assert_refused(one().env_clear(), "env");
    assert_refused(one().current_dir("/"), "current_dir");
    assert_refused(one().stdout(Output::Discard), "stdout");
    assert_refused(one().stderr(Output::Discard), "stderr");
    assert_refused(one().start_method(StartMethod::ForkServer), "start_method");
    assert_refused(one().preload(|| (), ()), "preload");
    assert_refused(one().pid_namespace(true), "pid_namespace");
    assert_refused(one().cgroup_memory_limit(1 << 30), "cgroup_memory_limit");
    assert_refused(one().limit(Limit::CoreSize(0)), "limit");
    assert_refused(one().sandbox(Sandbox::confined()), "sandbox");
    // what they can keep they take, and what answers things that don't happen to threads
    let second = Duration::from_secs(1);
    let pool = one().retries(3).crash_limit(1).max_restarts(1, second).grace(Duration::ZERO);
    let pool = pool.max_task_bytes(1).max_result_bytes(1).fast_lane(false);
    let pool = pool.build().unwrap();
    assert_eq!(pool.map(square, 0..10).unwrap(), squares(0..10));
    assert_eq!(pool.apply(|bytes: Vec<u8>| bytes, (vec![1; 100],)), Ok(vec![1; 100]));
    let by_name = pool.apply_named("echo", b"x").unwrap().get().unwrap_err().to_string();
    assert!(by_name.contains("by name"), "{by_name}");
}

#[test]
fn c5_175_a_pool_has_one_kind_of_worker() {
    let _case = Case::new();
    assert_refused(Pool::builder().processes(2).threads(3), "both processes and threads");
    assert_refused(Pool::builder().threads(3).processes(2), "both processes and threads");
    assert_refused(Pool::builder().threads(3).processes(2).threads(3), "leave one of them out");
    let pool = Pool::builder().threads(3).threads(2).build().unwrap();
    assert_eq!(pool.workers().len(), 2, "of the same kind, the last one counts");
    let pool = pool_core::dummy::Pool::builder().processes(2).threads(3).build().unwrap();
    assert_eq!(pool.workers().len(), 3, "there, both are threads");
}

#[test]
fn c5_175_dummy_has_the_names_over_threads() {
    use pool_core::dummy::{self, Pool, TaskError};
    let _case = Case::new();
    let pool = Pool::new(2).unwrap();
    assert_eq!(pool.apply(std::process::id, ()), Ok(std::process::id()));
    assert!(pool.imap(square, 0..10).map(Result::unwrap).eq(squares(0..10)));
    let handles: Vec<_> = (0..5).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
    assert_eq!(dummy::as_completed(handles).map(|h| h.get().unwrap()).sum::<u64>(), 30);
    let failed = pool.apply(|| -> anyhow::Result<()> { anyhow::bail!("no") }, ());
    assert_eq!(failed, Err(TaskError::Failed("no".to_owned())));
    pool.close();
    pool.join().unwrap();
    let pool = Pool::builder().processes(3).build().unwrap();
    assert_eq!(pool.workers().len(), 3);
    assert!(pool.workers().iter().all(|worker| worker.pid() == std::process::id()));
    let error = Pool::builder().processes(1).memory_limit(1 << 30).build().unwrap_err();
    assert!(matches!(error, PoolError::Config(_)), "{error}");
    assert!(matches!(Pool::new(0), Err(PoolError::Config(_))));
    // the rest of the module has its names as well
    let put = |queue: dummy::Queue<u32>, lock: dummy::Lock| {
        lock.lock().is_ok() && queue.put(std::process::id()).is_ok()
    };
    let (queue, lock) = (dummy::Queue::bounded(1).unwrap(), dummy::Lock::new().unwrap());
    let process = dummy::Process::spawn(put, (queue.clone(), lock)).unwrap();
    assert_eq!((process.join(), queue.get().unwrap()), (Ok(true), std::process::id()));
}
