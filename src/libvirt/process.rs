//! The end of a process that has talked to hosts.

/// Ends the process at once, without the functions that libraries registered for its end. Those of libvirt's client take down
/// what calls to hosts still work with on their threads, which nobody can stop, and the process would end in a crash.
pub fn end_process(succeeded: bool) -> ! {
    // SAFETY: it takes a number and doesn't return.
    unsafe { libc::_exit(i32::from(!succeeded)) }
}
