//! A child that borrows this process' memory, without its signal handlers: the kernel takes them away, instead of one system call for each signal. The C library has no
//! function for that.

use std::io;

/// The child's whole life: what it gets, and its exit code.
pub(super) type Life = extern "C" fn(*mut libc::c_void) -> libc::c_int;

/// [`with_default_handlers`], or what takes its place.
///
/// # Safety
/// As there.
pub(super) type Reset =
    unsafe fn(*mut libc::c_void, usize, Life, *mut libc::c_void) -> io::Result<libc::c_int>;

/// Makes a child in this memory that calls `life` with `data` on the stack of `size` bytes, and suspends the calling thread until it has executed a program or ended. Signals
/// that are ignored stay so; all others have their usual meaning in it. Gives its pidfd.
///
/// # Errors
/// Of the kernel. [`is_unknown`]: it can't do this, or a filter of system calls is against it.
///
/// # Safety
/// `stack` is aligned to 16 bytes, nobody else uses it, and `life` does in this memory only what a child of `vfork` on another stack may do. All signals are blocked.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn with_default_handlers(
    stack: *mut libc::c_void,
    size: usize,
    life: Life,
    data: *mut libc::c_void,
) -> io::Result<libc::c_int> {
    const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
    let mut pidfd: libc::c_int = -1;
    let flags = (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64;
    // SAFETY: integers, of which zero is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags | CLONE_CLEAR_SIGHAND;
    arguments.pidfd = (&raw mut pidfd).expose_provenance() as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.stack = stack.expose_provenance() as u64;
    arguments.stack_size = size as u64;
    let result: i64;
    // SAFETY: the parent comes out behind the block with nothing changed but what is named. The child has the same registers but for its stack pointer, which is aligned as a
    // call needs it; it calls the function and ends there. Both read `arguments` and write `pidfd` only in the kernel, while these live.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {data}",
            "call {life}",
            "mov edi, eax",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "2:",
            data = in(reg) data,
            life = in(reg) life,
            exit = const libc::SYS_exit_group,
            inout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw mut arguments,
            in("rsi") size_of::<libc::clone_args>(),
            out("rcx") _,
            out("r11") _,
        );
    }
    if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(pidfd) }
}

/// Not known for this kind of processor.
///
/// # Safety
/// None is needed.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn with_default_handlers(
    _stack: *mut libc::c_void,
    _size: usize,
    _life: Life,
    _data: *mut libc::c_void,
) -> io::Result<libc::c_int> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Whether the kernel knows no such call (it is of Linux 5.5), or a filter refuses it.
pub(super) fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EINVAL))
}
