//! Which system calls a sandbox refuses, or allows.

use std::collections::BTreeMap;

use seccompiler::{
    SeccompCmpArgLen::Dword, SeccompCmpArgLen::Qword, SeccompCmpOp, SeccompCondition, SeccompRule,
};

/// System calls by number, with the arguments for which a rule holds; no rules: for all.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What reaches other processes, the network, or the kernel's settings. `me` is this process.
pub(super) fn harmful(me: u32) -> Result<Rules, String> {
    let mut rules: Rules = HARMFUL.iter().map(|&number| (number, Vec::new())).collect();
    // signals: only its own
    for number in [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo] {
        rules.insert(number, vec![when(0, SeccompCmpOp::Ne, me.into())?]);
    }
    // processes: only threads of this one
    let is_thread = SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64);
    rules.insert(libc::SYS_clone, vec![when(0, is_thread, 0)?]);
    // its own limits and priorities, not those of others
    for number in [libc::SYS_prlimit64, libc::SYS_sched_setaffinity] {
        rules.insert(number, vec![not_me(0, me)?]);
    }
    rules.insert(libc::SYS_setpriority, vec![not_me(1, me)?]);
    // what ties it to its parent, and hides it from others, stays
    let fixed = [libc::PR_SET_PDEATHSIG, libc::PR_SET_DUMPABLE, libc::PR_SET_PTRACER];
    let fixed = fixed.map(|option| when(0, SeccompCmpOp::Eq, option as u64));
    rules.insert(libc::SYS_prctl, fixed.into_iter().collect::<Result<_, _>>()?);
    // sockets without an address only: a datagram socket can be sent from to anybody
    rules.insert(libc::SYS_socketpair, vec![is_datagram()?]);
    rules.insert(libc::SYS_sendto, vec![has_address()?]);
    // what types into the terminal
    let typing = [libc::TIOCSTI, TIOCLINUX, libc::TIOCSCTTY, libc::TIOCSETD];
    let typing = typing.map(|request| when(1, SeccompCmpOp::Eq, request));
    rules.insert(libc::SYS_ioctl, typing.into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

/// What computing takes, and `files` if there are any that may be opened.
pub(super) fn needed(me: u32, files: bool) -> Result<Rules, String> {
    let mut rules: Rules = NEEDED.iter().map(|&number| (number, Vec::new())).collect();
    // how libc asks about what is open already; a path in it can't be seen here, so it may ask about others too
    let is_open = libc::AT_EMPTY_PATH as u64;
    for (number, flags) in [(libc::SYS_newfstatat, 3), (libc::SYS_statx, 2)] {
        rules.insert(number, vec![when(flags, SeccompCmpOp::MaskedEq(is_open), is_open)?]);
    }
    if files {
        rules.extend(FILES.iter().map(|&number| (number, Vec::new())));
    }
    for number in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(number, vec![when(0, SeccompCmpOp::Eq, me.into())?]);
    }
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![when(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    rules.insert(libc::SYS_prlimit64, vec![when(0, SeccompCmpOp::Eq, 0)?]);
    let named = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA, libc::PR_GET_DUMPABLE];
    let named = named.map(|option| when(0, SeccompCmpOp::Eq, option as u64));
    rules.insert(libc::SYS_prctl, named.into_iter().collect::<Result<_, _>>()?);
    let kinds = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET];
    let kinds = kinds.map(|kind| when(1, SeccompCmpOp::MaskedEq(KIND), kind as u64));
    rules.insert(libc::SYS_socketpair, kinds.into_iter().collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_sendto, vec![condition(4, Qword, SeccompCmpOp::Eq, 0)?]);
    let asking = [libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX, libc::FIONCLEX, libc::TCGETS];
    let asking = asking.map(|request| when(1, SeccompCmpOp::Eq, request));
    rules.insert(libc::SYS_ioctl, asking.into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

/// The kind of a socket, without its flags.
const KIND: u64 = 0xf;

/// Not in libc: among other things it types what was marked with the mouse.
const TIOCLINUX: libc::Ioctl = 0x541c;

fn condition(
    argument: u8,
    len: seccompiler::SeccompCmpArgLen,
    comparison: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, String> {
    SeccompCondition::new(argument, len, comparison, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| error.to_string())
}

/// The kernel looks at 32 bits of such an argument, so that is what is compared.
fn when(argument: u8, comparison: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
    condition(argument, Dword, comparison, value)
}

/// Neither 0 nor the number of this process.
fn not_me(argument: u8, me: u32) -> Result<SeccompRule, String> {
    let other = |value: u64| SeccompCondition::new(argument, Dword, SeccompCmpOp::Ne, value);
    other(0)
        .and_then(|nobody| SeccompRule::new(vec![nobody, other(me.into())?]))
        .map_err(|error| error.to_string())
}

fn is_datagram() -> Result<SeccompRule, String> {
    let kind = |kind: i32| {
        let is = SeccompCmpOp::MaskedEq(KIND);
        SeccompCondition::new(1, Dword, is, kind as u64)
    };
    kind(libc::SOCK_DGRAM)
        .and_then(|datagram| SeccompRule::new(vec![datagram]))
        .map_err(|error| error.to_string())
}

fn has_address() -> Result<SeccompRule, String> {
    condition(4, Qword, SeccompCmpOp::Ne, 0)
}

/// What `confined` refuses whatever the arguments are.
const HARMFUL: &[i64] = &[
    // other processes
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_setpgid,
    libc::SYS_setsid,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_ioprio_set,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // sockets, and what has names in the kernel
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semctl,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_msgget,
    libc::SYS_msgctl,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // what landlock does not look at
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_utimensat,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // what works behind a filter's back, and large parts of the kernel that tasks seldom need
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_seccomp,
    // mounts
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // the machine
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // old names of the same, and ports
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Not in libc yet: the same number everywhere.
const SYS_FCHMODAT2: i64 = 452;

/// What `strict` allows whatever the arguments are.
const NEEDED: &[i64] = &[
    // what is open already
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_memfd_create,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // whether the holder of a lock is still there
    libc::SYS_pidfd_open,
    // memory
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // threads; the flags of clone3 are refused by another filter
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // signals to itself
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // time, chance, and what it is
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_select,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pipe,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// What `strict` allows besides if there are files that may be opened; landlock decides which.
const FILES: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
];
