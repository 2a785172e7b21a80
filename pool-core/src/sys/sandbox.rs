//! A worker confines itself: files by landlock, system calls by seccomp, and what else keeps it from others.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus,
};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, sock_filter};

use super::{fork, syscalls};
use crate::sandbox::{Confinement, Limit, Profile};

/// Linux 6.2: the first version in which a file that can't be written can't be cut either.
const LANDLOCK: ABI = ABI::V3;

/// What `confined` leaves to be read: programs, libraries, and what the standard library and the allocator look at.
const READABLE: [&str; 20] = [
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/sbin",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/group",
    "/proc/self",
    "/proc/self/exe",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
];

/// What `confined` leaves to be written as well.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Applies all of the plan that can be applied, for good, and gives what could not be.
pub(crate) fn confine(plan: &Confinement) -> Vec<String> {
    let mut gaps = Vec::new();
    let mut note = |what: &str, outcome: Result<(), String>| {
        gaps.extend(outcome.err().map(|error| format!("{what}: {error}")));
    };
    note("core dumps", set_limit(Resource::RLIMIT_CORE, 0, 0).map_err(text));
    note("no_new_privs", nix::sys::prctl::set_no_new_privs().map_err(text));
    note("landlock", restrict_files(plan));
    note("dumpable", nix::sys::prctl::set_dumpable(false).map_err(text));
    note("seccomp", restrict_system_calls(plan));
    gaps
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn restrict_files(plan: &Confinement) -> Result<(), String> {
    let threads = fork::threads();
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(Ruleset::create)
        .map_err(|error| {
            format!("this kernel does not have what is needed (Linux 6.2): {error}")
        })?;
    let status = allow(ruleset, plan)?.restrict_self().map_err(text)?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        return Err("it was applied in part only".to_owned());
    }
    match threads {
        Some(1) => Ok(()),
        // a test harness, or what has run before init()
        Some(more) => Err(format!("the process had {more} threads, and only one is confined")),
        None => Err("whether the process has other threads can't be seen".to_owned()),
    }
}

/// Opens what may be used: first what must be there, then what is usually there.
fn allow(mut ruleset: RulesetCreated, plan: &Confinement) -> Result<RulesetCreated, String> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let named = plan.readable.iter().map(|path| (path, read));
    for (path, access) in named.chain(plan.writable.iter().map(|path| (path, write))) {
        let path = Path::new(path);
        let file = PathFd::new(path).map_err(text)?;
        ruleset = add(ruleset, file, access, path.is_dir())?;
    }
    if plan.profile == Profile::Confined {
        let devices = DEVICES.map(|path| (path, read | AccessFs::WriteFile));
        for (path, access) in READABLE.map(|path| (path, read)).into_iter().chain(devices) {
            let Ok(file) = PathFd::new(path) else { continue };
            ruleset = add(ruleset, file, access, Path::new(path).is_dir())?;
        }
    }
    Ok(ruleset)
}

fn add(
    ruleset: RulesetCreated,
    file: PathFd,
    access: BitFlags<AccessFs>,
    is_directory: bool,
) -> Result<RulesetCreated, String> {
    let access = if is_directory { access } else { access & AccessFs::from_file(LANDLOCK) };
    ruleset.add_rule(PathBeneath::new(file, access)).map_err(text)
}

fn restrict_system_calls(plan: &Confinement) -> Result<(), String> {
    let arch = std::env::consts::ARCH;
    let filter = |rules: BTreeMap<i64, Vec<SeccompRule>>, others, these| {
        let arch = arch.try_into().map_err(text)?;
        let filter = SeccompFilter::new(rules, others, these, arch).map_err(text)?;
        BpfProgram::try_from(filter).map_err(text)
    };
    let refused = |code: i32| SeccompAction::Errno(code.unsigned_abs());
    // its flags lie in memory, where no filter can see them: libc then uses the older call, whose flags can be seen
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let unknown = filter(unknown, SeccompAction::Allow, refused(libc::ENOSYS))?;
    let me = std::process::id();
    let main = match plan.profile {
        Profile::Confined => {
            filter(syscalls::harmful(me)?, SeccompAction::Allow, refused(libc::EPERM))?
        }
        Profile::Strict => {
            let files = !plan.readable.is_empty() || !plan.writable.is_empty();
            filter(syscalls::needed(me, files)?, refused(libc::EPERM), SeccompAction::Allow)?
        }
    };
    // the last one forbids to add further ones
    seccompiler::apply_filter_all_threads(&unknown).map_err(text)?;
    seccompiler::apply_filter_all_threads(&without_x32(main)).map_err(text)
}

/// On x86_64, the same calls can be made by other numbers, which a list of harmful ones would not find.
fn without_x32(program: BpfProgram) -> BpfProgram {
    const X32: u32 = 0x4000_0000;
    let instruction = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let mut all = vec![
        // the number of the call is the first word of what a filter sees
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs(),
        ),
    ];
    all.extend(program);
    all
}

/// Applies a limit for good. One that is lower already stays.
pub(crate) fn limit(limit: Limit) -> io::Result<()> {
    match limit {
        Limit::CpuTime(time) => {
            let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
            // the first signal can be told from a kill
            set_limit(Resource::RLIMIT_CPU, seconds, seconds.saturating_add(1))
        }
        Limit::FileSize(bytes) => set_limit(Resource::RLIMIT_FSIZE, bytes, bytes),
        Limit::OpenFiles(number) => set_limit(Resource::RLIMIT_NOFILE, number, number),
        Limit::CoreSize(bytes) => set_limit(Resource::RLIMIT_CORE, bytes, bytes),
        Limit::Stack(bytes) => set_limit(Resource::RLIMIT_STACK, bytes, bytes),
    }
}

fn set_limit(what: Resource, soft: rlim_t, hard: rlim_t) -> io::Result<()> {
    let (old_soft, old_hard) = getrlimit(what)?;
    let hard = hard.min(old_hard);
    Ok(setrlimit(what, soft.min(old_soft).min(hard), hard)?)
}
