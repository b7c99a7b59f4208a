//! Ctrl-C: work that can be asked stops at its next chunk or token; everything else ends at once.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

/// What a command ends with that was interrupted (128 + SIGINT).
pub(crate) const EXIT: u8 = 130;

/// Work was stopped by the user; says where.
#[derive(Debug)]
pub struct Interrupted(pub String);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// Hears Ctrl-C from [`Interrupt::watch`] on.
#[derive(Clone, Debug)]
pub struct Interrupt {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody asks [`Interrupt::asked`] between steps of work.
    heard: AtomicBool,
    asked: AtomicBool,
}

/// While it lives the first Ctrl-C is a question to the work; without it, and for the second, it ends the process.
pub struct Hearing<'a>(&'a Interrupt);

impl Interrupt {
    /// Takes Ctrl-C over. A thread waits for it, so that a chunk of work that takes seconds delays nothing.
    ///
    /// # Errors
    /// The system has no room for a handler or a thread.
    pub fn watch() -> Result<Self> {
        let state = Arc::new(State::default());
        let mut signals = Signals::new([SIGINT]).context("cannot watch for Ctrl-C")?;
        let seen = Arc::clone(&state);
        let wait = move || {
            for _ in &mut signals {
                let is_second = seen.asked.swap(true, Ordering::SeqCst);
                if is_second || !seen.heard.load(Ordering::SeqCst) {
                    leave();
                }
            }
        };
        thread::Builder::new().name("ctrl-c".into()).spawn(wait).context("cannot watch for Ctrl-C")?;
        Ok(Self { state })
    }

    /// Starts work that asks [`Interrupt::asked`].
    pub fn hear(&self) -> Hearing<'_> {
        self.state.asked.store(false, Ordering::SeqCst);
        self.state.heard.store(true, Ordering::SeqCst);
        Hearing(self)
    }

    /// Whether the user wants the work to stop.
    pub fn asked(&self) -> bool {
        self.state.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        self.0.state.heard.store(false, Ordering::SeqCst);
        self.0.state.asked.store(false, Ordering::SeqCst);
    }
}

/// Clears the line that a progress bar may stand on, and ends the process.
fn leave() -> ! {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K");
    }
    eprintln!("error: interrupted");
    std::process::exit(EXIT.into())
}
