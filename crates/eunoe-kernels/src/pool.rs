//! A persistent thread pool: one parallel loop at a time.
//!
//! Each thread owns a contiguous range of a loop's tasks and takes from its front; a thread without tasks steals the
//! back half of another's range. Threads enter and leave a loop through one atomic word, the gate: who comes too late
//! finds it closed, and nobody waits for him. Waiters spin for a bounded time and then park.

mod measured;

use std::cell::UnsafeCell;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a waiter spins before it parks: longer than the serial parts between the loops of a forward pass, and than
/// waking a thread takes.
const SPIN: Duration = Duration::from_micros(100);

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// Threads inside the loop in the low half, a number that is odd while the gate is open in the high half.
type Gate = u64;
/// From closed to open and from open to closed.
const STEP: Gate = 1 << 32;
/// "Inside" a closed gate when the pool ends.
const STOP: u64 = STEP - 1;

fn number(gate: Gate) -> u64 {
    gate >> 32
}

fn is_open(gate: Gate) -> bool {
    number(gate) % 2 == 1
}

fn inside(gate: Gate) -> u64 {
    gate % STEP
}

/// A range of tasks in one word (start low, end high), alone in its cache lines.
#[derive(Default)]
#[repr(align(128))]
struct Share(AtomicU64);

impl Share {
    fn set(&self, tasks: Range<u32>) {
        self.0.store(u64::from(tasks.start) | u64::from(tasks.end) << 32, Ordering::Relaxed);
    }

    /// Takes what `part` says of the tasks left; `None` where none is left. Relaxed is enough: a task goes to whoever
    /// exchanges the word that holds it, and the gate orders everything else.
    fn take(&self, part: impl Fn(Range<u32>) -> (Range<u32>, Range<u32>)) -> Option<Range<u32>> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let tasks = word as u32..(word >> 32) as u32;
            if tasks.is_empty() {
                return None;
            }
            let (taken, left) = part(tasks);
            let new = u64::from(left.start) | u64::from(left.end) << 32;
            match self.0.compare_exchange_weak(word, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(taken),
                Err(now) => word = now,
            }
        }
    }

    fn front(&self) -> Option<usize> {
        let first = self.take(|t| (t.start..t.start + 1, t.start + 1..t.end))?;
        Some(first.start as usize)
    }

    fn back_half(&self) -> Option<Range<u32>> {
        self.take(|t| {
            let middle = t.start + (t.end - t.start) / 2;
            (middle..t.end, t.start..middle)
        })
    }
}

struct Shared {
    gate: AtomicU64,
    /// The loop's body; written by the caller while the gate is closed and nobody is inside, read by who is inside.
    work: UnsafeCell<Option<*const Task<'static>>>,
    /// One per thread; the caller's is the first.
    shares: Box<[Share]>,
    panicked: AtomicBool,
    spin: Duration,
    /// Threads that are parked or about to be, workers and the caller.
    parked: AtomicUsize,
    park: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `work` is the one field that is not `Sync`. The holder of `Pool::busy` alone writes it, before it opens the
// gate (release) and after the last thread inside has left (acquire); only threads inside read it, and the pointer is
// of a `Sync` closure that outlives the loop.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to one thread.
unsafe impl Send for Shared {}

impl Shared {
    /// Waits until `is_done` holds for the gate.
    fn wait(&self, is_done: impl Fn(Gate) -> bool) -> Gate {
        let mut start = None;
        loop {
            for _ in 0..32 {
                let gate = self.gate.load(Ordering::Acquire);
                if is_done(gate) {
                    return gate;
                }
                std::hint::spin_loop();
            }
            if start.get_or_insert_with(Instant::now).elapsed() >= self.spin {
                break;
            }
        }
        let mut guard = self.park.lock().unwrap_or_else(PoisonError::into_inner);
        // Either this thread sees the gate move or `announce` sees it parked: both sides write first, then read.
        self.parked.fetch_add(1, Ordering::SeqCst);
        let gate = loop {
            let gate = self.gate.load(Ordering::SeqCst);
            if is_done(gate) {
                break gate;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.parked.fetch_sub(1, Ordering::Relaxed);
        gate
    }

    /// Wakes parked threads after the gate has moved (`SeqCst`).
    fn announce(&self) {
        if self.parked.load(Ordering::SeqCst) > 0 {
            drop(self.park.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    fn worker(&self, me: usize) {
        let mut seen = 0;
        loop {
            let gate = self.wait(|gate| inside(gate) == STOP || is_open(gate) && number(gate) != seen);
            if inside(gate) == STOP {
                return;
            }
            if self.gate.compare_exchange(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue; // another thread went in, or the gate was closed
            }
            seen = number(gate);
            // SAFETY: this thread is inside, see `Shared`.
            if let Some(work) = unsafe { *self.work.get() } {
                // SAFETY: as above.
                self.work_off(me, unsafe { &*work });
            }
            let gate = self.gate.fetch_sub(1, Ordering::SeqCst);
            if !is_open(gate) && inside(gate) == 1 {
                self.announce();
            }
        }
    }

    /// Runs tasks until none is left to take.
    fn work_off(&self, me: usize, work: &Task<'_>) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            loop {
                while let Some(i) = self.shares[me].front() {
                    work(i);
                }
                let others = (1..self.shares.len()).map(|i| (me + i) % self.shares.len());
                match others.into_iter().find_map(|i| self.shares[i].back_half()) {
                    Some(stolen) => self.shares[me].set(stolen),
                    None => break,
                }
            }
        }));
        if outcome.is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
    }

    /// One loop from its opening to the last thread's leaving. The caller holds `Pool::busy`.
    fn run(&self, tasks: u32, work: *const Task<'static>) {
        let (count, threads) = (u64::from(tasks), self.shares.len() as u64);
        let bound = |i: u64| (count * i / threads) as u32;
        for (i, share) in (0..).zip(&self.shares) {
            share.set(bound(i)..bound(i + 1));
        }
        // SAFETY: the gate is closed, and nobody is inside; see `Shared`.
        unsafe { *self.work.get() = Some(work) };
        self.gate.fetch_add(STEP, Ordering::SeqCst);
        self.announce();
        // SAFETY: `Pool::run` keeps the closure alive.
        self.work_off(0, unsafe { &*work });
        self.gate.fetch_add(STEP, Ordering::SeqCst);
        self.wait(|gate| inside(gate) == 0);
        // SAFETY: as above.
        unsafe { *self.work.get() = None };
    }
}

/// Threads that run one loop at a time; the calling thread works too.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// A loop is running.
    busy: AtomicBool,
}

impl Pool {
    /// A pool of `threads` threads in all (at least 1, the caller included). Fewer where the system refuses.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        let spin = if threads > Self::available() { Duration::ZERO } else { SPIN };
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            shares: (0..threads).map(|_| Share::default()).collect(),
            panicked: AtomicBool::new(false),
            spin,
            parked: AtomicUsize::new(0),
            park: Mutex::new(()),
            wake: Condvar::new(),
        });
        let threads = (1..threads)
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("eunoe-{i}")).spawn(move || shared.worker(i)).ok()
            })
            .collect();
        Self { shared, threads, busy: AtomicBool::new(false) }
    }

    /// As many threads as this process may use.
    pub fn available() -> usize {
        std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
    }

    /// Threads that work on a loop, the caller included.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `work(0)`, …, `work(tasks - 1)`, each once, on any thread and in any order; returns when all are done.
    /// A loop inside a task, or beside a loop of another caller, runs on its own thread alone.
    ///
    /// # Panics
    /// When a task panicked, or there are more than 2^32 - 1 tasks.
    pub fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        let count = u32::try_from(tasks).expect("tasks are counted in 32 bits");
        if self.threads.is_empty() || tasks <= 1 || self.busy.swap(true, Ordering::Acquire) {
            (0..tasks).for_each(work);
            return;
        }
        // SAFETY: only the lifetime changes; `Shared::run` returns when no worker is inside the loop any more.
        let work: *const Task<'static> = unsafe { std::mem::transmute::<*const Task<'_>, _>(work) };
        self.shared.run(count, work);
        let panicked = self.shared.panicked.swap(false, Ordering::Relaxed);
        self.busy.store(false, Ordering::Release);
        assert!(!panicked, "a task of the thread pool panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.gate.fetch_add(STOP, Ordering::SeqCst);
        self.shared.announce();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A buffer that tasks of one loop write disjoint parts of.
#[derive(Clone, Copy)]
pub struct Shards<T> {
    base: *mut T,
    len: usize,
}

// SAFETY: `part` is unsafe and its caller promises disjoint ranges, so threads never alias.
unsafe impl<T: Send> Send for Shards<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shards<T> {}

impl<T> Shards<T> {
    /// Shares `whole` for as long as the caller keeps it borrowed.
    pub fn new(whole: &mut [T]) -> Self {
        Self { base: whole.as_mut_ptr(), len: whole.len() }
    }

    /// The part `start..start + len`.
    ///
    /// # Safety
    /// The slice that `new` got is still borrowed for this use alone, and no two live parts overlap.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub unsafe fn part<'a>(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "part outside the shared buffer");
        // SAFETY: in bounds by the assertion, disjoint and alive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_any_thread_count() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 3, 64, 1000] {
                let hits: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    hits.iter().all(|h| h.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {tasks} tasks"
                );
            }
        }
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(8, &|i| assert!(i != 5, "five"));
        }));
        assert!(outcome.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(10, &|i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn a_thread_without_tasks_takes_those_of_a_slow_one() {
        let pool = Pool::new(2);
        let done = AtomicUsize::new(0);
        pool.run(64, &|i| {
            // the first task ends when all others are done: the rest of its thread's range must have been stolen
            let start = Instant::now();
            while i == 0 && done.load(Ordering::Relaxed) < 63 {
                assert!(start.elapsed() < Duration::from_secs(60), "nobody steals");
                std::thread::yield_now();
            }
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 64);
    }

    #[test]
    fn many_short_loops_with_and_without_parked_workers() {
        for threads in [1, 2, 7] {
            let pool = Pool::new(threads);
            let mut sums = vec![0u64; 5];
            for n in 0..5000 {
                let shared = Shards::new(&mut sums);
                pool.run(5, &|i| {
                    // SAFETY: one part per task, and `sums` outlives the loop.
                    let sum = unsafe { shared.part(i, 1) };
                    sum[0] += i as u64 + n;
                });
                if n % 1000 == 0 {
                    std::thread::sleep(5 * SPIN);
                }
            }
            // sum of n over 0..5000 = 12497500
            assert_eq!(
                sums,
                [12_497_500, 12_502_500, 12_507_500, 12_512_500, 12_517_500],
                "{threads} threads"
            );
        }
    }

    #[test]
    fn callers_do_not_wait_for_each_other_nor_for_themselves() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(4, &|i| {
                            pool.run(3, &|j| {
                                sum.fetch_add(i * j, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        // (0 + 1 + 2 + 3) (0 + 1 + 2) = 18 per loop
        assert_eq!(sum.into_inner(), 4 * 200 * 18);
    }
}
