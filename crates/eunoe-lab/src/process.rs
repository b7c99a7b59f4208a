//! What a process that trains sets for itself before it begins.

use std::process::Command;

/// Variables that libraries read once, at their first use.
///
/// candle's own threads spin between operations and take the cores from ours; tensors of a megabyte are mapped and unmapped
/// by the system's allocator at every operation, and every page of them is faulted in and cleared again. Measured together
/// by `examples/step_speed.rs`: a third of a step on two cores.
const CALM: [(&str, &str); 4] = [
    ("CANDLE_BARRIER_POOL_SPIN_LIMIT", "0"),
    ("MALLOC_MMAP_THRESHOLD_", "4294967296"),
    ("MALLOC_TRIM_THRESHOLD_", "4294967296"),
    ("MALLOC_TOP_PAD_", "67108864"),
];

/// Starts the program again with those of [`CALM`] that the user has not set; returns where nothing is to be set. Only so can
/// they be set: they are read before `main`, and setting them beside other threads is not sound.
pub fn calm() {
    let missing = || CALM.into_iter().filter(|(name, _)| std::env::var_os(name).is_none());
    let Some(program) = std::env::current_exe().ok().filter(|_| missing().next().is_some()) else { return };
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).envs(missing());
    #[cfg(unix)]
    {
        // comes back only where it failed, and then the work is slower, not wrong
        let _ = std::os::unix::process::CommandExt::exec(&mut command);
    }
}
