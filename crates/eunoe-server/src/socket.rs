//! A connection's bytes: who does not take his answer is given up, and who is refused half-way can still read why.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Bytes that a client has to take within its patience, once it makes the server wait.
const LEAST: usize = 64 << 10;
/// How long what still comes is read and thrown away once all is said: closing with unread bytes would make the system drop
/// the answer on its way.
const LINGER: Duration = Duration::from_secs(1);

/// A stream with limits of time.
pub(crate) struct Socket {
    stream: TcpStream,
    stall: Stall,
    /// Ends a wait, or the end of a connection.
    timer: Pin<Box<Sleep>>,
    is_shut: bool,
}

/// How long a client made the server wait.
struct Stall {
    patience: Duration,
    /// Of waits that ended, since it last took [`LEAST`] bytes.
    waited: Duration,
    /// Bytes since then.
    taken: usize,
    since: Option<Instant>,
}

impl Stall {
    /// Until when it may go on, where a wait begins.
    fn begins(&mut self, now: Instant) -> Option<Instant> {
        match self.since {
            Some(_) => None,
            None => {
                self.since = Some(now);
                Some(now + self.patience.saturating_sub(self.waited))
            }
        }
    }

    fn took(&mut self, bytes: usize, now: Instant) {
        self.waited += self.since.take().map_or(Duration::ZERO, |since| now - since);
        self.taken += bytes;
        if self.taken >= LEAST {
            (self.waited, self.taken) = (Duration::ZERO, 0);
        }
    }
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, patience: Duration) -> Self {
        stream.set_nodelay(true).ok();
        let stall = Stall { patience, waited: Duration::ZERO, taken: 0, since: None };
        Self { stream, stall, timer: Box::pin(sleep(Duration::ZERO)), is_shut: false }
    }

    /// What a write came to; one that waits for too long fails.
    fn written(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let now = Instant::now();
        match outcome {
            Poll::Ready(outcome) => {
                self.stall.took(outcome.as_ref().map_or(0, |n| *n), now);
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                if let Some(end) = self.stall.begins(now) {
                    self.timer.as_mut().reset(end);
                }
                ready!(self.timer.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.is_shut = true;
            self.timer.as_mut().reset(Instant::now() + LINGER);
        }
        let mut rest = [0; 8 << 10];
        while self.timer.as_mut().poll(cx).is_pending() {
            let mut rest = ReadBuf::new(&mut rest);
            let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut rest));
            if outcome.is_err() || rest.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_add_up_until_enough_is_taken() {
        let second = Duration::from_secs(1);
        let mut stall = Stall { patience: 10 * second, waited: Duration::ZERO, taken: 0, since: None };
        let start = Instant::now();
        assert_eq!(stall.begins(start), Some(start + 10 * second));
        assert_eq!(stall.begins(start + second), None, "it is the same wait");
        stall.took(1, start + 4 * second);
        assert_eq!(stall.begins(start + 5 * second), Some(start + 11 * second), "4 of 10 s are gone");
        stall.took(LEAST, start + 6 * second);
        assert_eq!(stall.begins(start + 7 * second), Some(start + 17 * second), "all are there again");
    }
}
