//! The price of a page: strips of a request on fresh pages, beside strips that an ended request left behind.

use eunoe_kernels::strip::Strip;

use super::{SLOT, Shape, median, say};

const TURNS: usize = 15;
const LENGTHS: [usize; 3] = [32, 1024, 8192];

fn strips(shape: &Shape, slots: usize) -> Vec<Strip> {
    let strip = |_| Strip::new(SLOT, slots).expect("address space");
    (0..shape.layers * shape.kv_heads).map(strip).collect()
}

fn fill(strips: &mut [Strip], slots: usize) {
    strips.iter_mut().for_each(|strip| strip.append(slots).fill(7));
}

/// Seconds of this thread's processor time: what other programs take at the same time does not count.
fn seconds(what: impl FnOnce()) -> f64 {
    let start = clock();
    what();
    clock() - start
}

#[cfg(target_os = "linux")]
fn clock() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the system fills the struct that we own.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(not(target_os = "linux"))]
fn clock() -> f64 {
    use std::{sync::LazyLock, time::Instant};
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_secs_f64()
}

/// Has another thread ask for the pages of strips, and gives its seconds; `None` where the system has no such call.
#[cfg(target_os = "linux")]
fn populate(strips: &mut [Strip], slots: usize) -> Option<f64> {
    let page = eunoe_kernels::vm::page_bytes();
    let ask = |bytes: &mut [u8]| {
        let (start, len) = (bytes.as_mut_ptr(), bytes.len().next_multiple_of(page));
        // SAFETY: a strip starts at a page, and its last one is whole; asking for pages changes no byte of them.
        unsafe { libc::madvise(start.cast(), len, libc::MADV_POPULATE_WRITE) == 0 }
    };
    let all = || {
        let mut is_done = true;
        let seconds = seconds(|| is_done = strips.iter_mut().all(|strip| ask(strip.append(slots))));
        is_done.then_some(seconds)
    };
    std::thread::scope(|s| s.spawn(all).join().ok().flatten())
}

#[cfg(not(target_os = "linux"))]
fn populate(_: &mut [Strip], _: usize) -> Option<f64> {
    None
}

/// Seconds of: new strips filled and dropped; pages given back and taken again; pages kept; pages asked for by another
/// thread; and filled after that.
fn measure(shape: &Shape, slots: usize) -> [f64; 5] {
    let mut kept = strips(shape, slots);
    fill(&mut kept, slots);
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..TURNS {
        let fresh = seconds(|| fill(&mut strips(shape, slots), slots));
        let again = seconds(|| {
            kept.iter_mut().for_each(|strip| strip.truncate(0));
            fill(&mut kept, slots);
        });
        kept.iter_mut().for_each(Strip::reset);
        let reused = seconds(|| fill(&mut kept, slots));
        kept.iter_mut().for_each(|strip| strip.truncate(0));
        let ahead = populate(&mut kept, slots);
        kept.iter_mut().for_each(Strip::reset);
        let after = seconds(|| fill(&mut kept, slots));
        let [ahead, after] = ahead.map_or([f64::NAN; 2], |ahead| [ahead, after]);
        times.iter_mut().zip([fresh, again, reused, ahead, after]).for_each(|(all, x)| all.push(x));
    }
    times.map(median)
}

pub(crate) fn page(shapes: &[Shape], assumed: f64) {
    say(&format!(
        "## What a page costs\n\nAll strips of one request, filled by one thread, in microseconds of processor time per \
         MiB: made new, filled and\ndropped; with their pages given back and taken again; with the pages of an ended \
         request kept; their pages asked for ahead\non another thread (`MADV_POPULATE_WRITE`), and filled after that. Medians \
         of {TURNS} turns. The last three columns: what\nkeeping pages would save (new less kept), and its share of the time to \
         read that many tokens at {assumed} tokens/s and at the\nfastest reading in [performance.md](performance.md), of two \
         threads on a faster processor, whose pages may cost less and whose\nthreads would share them: {}.\n",
        shapes.iter().map(|s| format!("{} at {}", s.name, s.fastest)).collect::<Vec<_>>().join(", ")
    ));
    say(&format!(
        "| model | tokens | MiB | new | given back | kept | asked ahead | filled then | saved, ms | at {assumed}/s | at the fastest \
         |\n|---|---|---|---|---|---|---|---|---|---|---|"
    ));
    for (shape, slots) in shapes.iter().flat_map(|shape| LENGTHS.map(|slots| (shape, slots))) {
        let times = measure(shape, slots);
        let mib = (shape.layers * shape.kv_heads * slots * SLOT.bytes()) as f64 / f64::from(1 << 20);
        let per_mib: Vec<String> = times.iter().map(|s| format!("{:.0}", s * 1e6 / mib)).collect();
        let share = |rate: f64| 100.0 * (times[0] - times[2]) * rate / slots as f64;
        say(&format!(
            "| {} | {slots} | {mib:.1} | {} | {:.1} | {:.2} % | {:.2} % |",
            shape.name,
            per_mib.join(" | "),
            1e3 * (times[0] - times[2]),
            share(assumed),
            share(shape.fastest)
        ));
    }
    say("");
}
