//! A persistent thread pool: one parallel loop at a time, tasks taken from a shared counter, waiters spin briefly
//! and then park (a spinning barrier beside a busy neighbour costs 10 to 20 times the work).

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

const SPINS: u32 = 2_000;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// The loop that is being run; `work` outlives every use because `Pool::run` waits for `active` to reach 0.
#[derive(Clone, Copy)]
struct Job {
    work: *const Task<'static>,
    tasks: usize,
}

// SAFETY: `work` points to a `Sync` closure that `Pool::run` keeps alive until no worker uses the job any more.
unsafe impl Send for Job {}

#[derive(Default)]
struct State {
    job: Option<Job>,
    epoch: usize,
    active: usize,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    start: Condvar,
    done: Condvar,
    /// A copy of `State::epoch` that idle workers spin on before they park.
    epoch: AtomicUsize,
    /// A copy of `State::active` that the caller spins on before it parks.
    active: AtomicUsize,
    next: AtomicUsize,
    panicked: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work_off(&self, job: Job) {
        // SAFETY: the job is alive, see `Job`.
        let work = unsafe { &*job.work };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            loop {
                let i = self.next.fetch_add(1, Ordering::Relaxed);
                if i >= job.tasks {
                    break;
                }
                work(i);
            }
        }));
        if outcome.is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
    }

    fn worker(&self) {
        let mut seen = 0;
        loop {
            for _ in 0..SPINS {
                if self.epoch.load(Ordering::Acquire) != seen {
                    break;
                }
                std::hint::spin_loop();
            }
            let mut state = self.lock();
            while state.epoch == seen && !state.stop {
                state = self.start.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stop {
                return;
            }
            seen = state.epoch;
            let Some(job) = state.job else { continue };
            state.active += 1;
            self.active.store(state.active, Ordering::Release);
            drop(state);
            self.work_off(job);
            let mut state = self.lock();
            state.active -= 1;
            self.active.store(state.active, Ordering::Release);
            if state.active == 0 {
                self.done.notify_one();
            }
        }
    }
}

/// Threads that run one loop at a time; the calling thread works too.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Serialises callers: the pool runs one loop at a time.
    turn: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` threads in all (at least 1, the caller included). Fewer where the system refuses.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (1..threads.max(1))
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("eunoe-{i}")).spawn(move || shared.worker()).ok()
            })
            .collect();
        Self { shared, threads, turn: Mutex::new(()) }
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
    ///
    /// # Panics
    /// When a task panicked.
    pub fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        if self.threads.is_empty() || tasks <= 1 {
            (0..tasks).for_each(work);
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: only the lifetime changes; `run` returns after the job is withdrawn and no worker is active.
        let work: *const Task<'static> = unsafe { std::mem::transmute::<*const Task<'_>, _>(work) };
        let job = Job { work, tasks };
        {
            let mut state = self.shared.lock();
            self.shared.next.store(0, Ordering::Relaxed);
            state.job = Some(job);
            state.epoch += 1;
            self.shared.epoch.store(state.epoch, Ordering::Release);
            self.shared.start.notify_all();
        }
        self.shared.work_off(job);
        for _ in 0..SPINS {
            if self.shared.active.load(Ordering::Acquire) == 0 {
                break;
            }
            std::hint::spin_loop();
        }
        let mut state = self.shared.lock();
        state.job = None;
        while state.active > 0 {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        if self.shared.panicked.swap(false, Ordering::Relaxed) {
            panic!("a task of the thread pool panicked");
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.epoch.fetch_add(1, Ordering::Release);
        self.shared.start.notify_all();
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
}
