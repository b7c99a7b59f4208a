//! Connections: how many, how long they may take to say what they want, and how the server ends.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::error::ApiError;
use crate::routes::router;
use crate::socket::Socket;
use crate::worker::{Open, Worker, folder};
use crate::{App, Settings, Shared};

/// Bytes of headers, and of a body that wait to be read.
const BUFFER: usize = 64 << 10;
/// How long running answers may go on once the server is asked to stop.
const GRACE: Duration = Duration::from_secs(30);
/// Time before connections are taken again where one could not be.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections beyond the most, which are told so, at a time; more of them wait to be taken.
pub const REFUSED: usize = 512;
/// How long one of those may take to ask.
const REFUSAL: Duration = Duration::from_millis(250);

/// As [`serve`], on a runtime of its own, until Ctrl-C or a request of the system to end.
///
/// # Errors
/// Those of [`serve`].
pub fn run(
    listener: std::net::TcpListener,
    settings: Settings,
    open: Open,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = async move {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        };
        serve(TcpListener::from_std(listener)?, settings, open, stop).await
    });
    runtime.shutdown_background();
    outcome
}

/// Serves until `stop` is done; then takes no new requests, and ends once the running ones are answered. The runtime has to
/// be one of several threads.
///
/// # Errors
/// The model cannot be opened, or the system has no thread for it.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    open: Open,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let limits = eunoe_engine::schedule::Limits {
        memory: settings.memory,
        prefixes: settings.prefixes,
        running: settings.running,
        rows: settings.rows,
        folder: folder(),
    };
    let worker = Worker::start(open, limits, settings.waiting)?;
    let places = Arc::new(Semaphore::new(settings.connections));
    let refusals = Arc::new(Semaphore::new(REFUSED));
    let all = settings.connections as u32;
    let app: Shared = Arc::new(App::new(settings, worker));
    let router = router(&app);
    let (ending, ended) = watch::channel(false);
    tokio::pin!(stop);
    let mut look = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = look.tick() => if let Some(e) = app.worker.take_failure() { return Err(e.into()) },
            accepted = accept(&listener, &refusals) => {
                let Ok((stream, refusal)) = accepted else {
                    // it broke before it began, or there are no more file handles: soon there may be
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let socket = Socket::new(stream, app.settings.arrival);
                match Arc::clone(&places).try_acquire_owned() {
                    Ok(place) => {
                        drop(refusal);
                        let (router, ended, arrival) = (router.clone(), ended.clone(), app.settings.arrival);
                        tokio::spawn(async move {
                            connection(socket, router, ended, arrival).await;
                            drop(place);
                        });
                    }
                    Err(_) => {
                        tokio::spawn(refuse(socket, app.settings.connections, refusal));
                    }
                }
            }
        }
    }
    app.worker.close();
    ending.send(true).ok();
    tokio::time::timeout(GRACE, places.acquire_many(all)).await.ok().and_then(Result::ok);
    app.worker.abandon();
    Ok(())
}

/// A connection, once there is room to tell it at least that there is none.
async fn accept(
    listener: &TcpListener,
    refusals: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let refusal = Arc::clone(refusals).acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?.0, refusal))
}

/// Tells a connection beyond the most that it is.
async fn refuse(mut socket: Socket, connections: usize, refusal: OwnedSemaphorePermit) {
    // clients do not expect an answer before they have asked
    tokio::time::timeout(REFUSAL, socket.read(&mut [0; 1 << 10])).await.ok();
    let answer = ApiError::crowded(connections).bytes();
    tokio::time::timeout(REFUSAL, async {
        socket.write_all(&answer).await?;
        socket.shutdown().await
    })
    .await
    .ok();
    drop(refusal);
}

/// Answers what comes over one connection.
async fn connection(socket: Socket, router: Router, mut ended: watch::Receiver<bool>, arrival: Duration) {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(arrival).max_buf_size(BUFFER);
    let connection = builder.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = ended.wait_for(|ended| *ended) => connection.as_mut().graceful_shutdown(),
    }
    connection.await.ok();
}
