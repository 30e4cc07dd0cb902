//! Accepting connections, serving each, and ending them all when the server is told to stop.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::rollout_prefix;
use crate::routes::Shared;
use crate::timed_writes::TimedWrites;

/// Bytes of a request's headers at most.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// More connections than this are beyond any operating system's means.
const MAX_CONNECTIONS: usize = 1 << 24;

/// Longer waits than this are the same as waiting for ever.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Wait after the operating system refused a connection, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves connections until `tell` says to stop or the process is asked to end, then lets running requests end. Returns
/// the number of connections that did not end in time.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    shared: Arc<Shared>,
    tell: &watch::Sender<bool>,
) -> usize {
    let mut stop = tell.subscribe();
    let max_connections = shared.config.max_connections.min(MAX_CONNECTIONS);
    let places = Arc::new(Semaphore::new(max_connections));
    let mut terminated = std::pin::pin!(terminated(shared.config.stops_on_sigterm));
    let sweeper = tokio::spawn(drop_idle_sessions(Arc::clone(&shared)));
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            () = &mut terminated => {
                // The connections that are open are told.
                tell.send_replace(true);
                break;
            }
            accepted = accept(&listener, &places) => accepted,
        };
        if let Some((stream, place)) = accepted {
            tokio::spawn(serve_connection(stream, router.clone(), Arc::clone(&shared), stop.clone(), place));
        } else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
    drop(listener);
    sweeper.abort();
    // The limit makes the conversion exact.
    let all_places = places.acquire_many(max_connections as u32);
    match tokio::time::timeout(shared.config.shutdown_timeout, all_places).await {
        Ok(_) => 0,
        Err(_) => max_connections - places.available_permits(),
    }
}

/// Returns once the server is told to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // It fails if nobody is left who could tell; the server then has no reason to go on either.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Returns once the process is asked to end (SIGTERM), if that is to be heeded.
async fn terminated(is_heeded: bool) {
    #[cfg(unix)]
    if is_heeded
        && let Ok(mut signals) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        && signals.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// The next connection, once there is a place for it; `None` if the operating system refuses it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    let (stream, _) = listener.accept().await.ok()?;
    // Answers are small and awaited; a socket without this option only is slower.
    let _ = stream.set_nodelay(true);
    Some((stream, place))
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
    place: OwnedSemaphorePermit,
) {
    shared.metrics.num_connections.fetch_add(1, Ordering::Relaxed);
    let stream = TimedWrites::new(stream, shared.config.response_timeout.min(MAX_WAIT));
    let service = TowerToHyperService::new(router);
    let answer = move |mut request: Request<Incoming>| {
        rollout_prefix::strip(request.uri_mut());
        service.call(request)
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.keep_alive.min(MAX_WAIT))
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(stream, service_fn(answer));
    let mut connection = std::pin::pin!(connection);
    // However it ends, only this client is concerned, and it knows.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    shared.metrics.num_connections.fetch_sub(1, Ordering::Relaxed);
    drop(place);
}

async fn drop_idle_sessions(shared: Arc<Shared>) {
    let pause = (shared.config.idle_timeout / 4).clamp(Duration::from_millis(10), Duration::from_secs(60));
    loop {
        tokio::time::sleep(pause).await;
        shared.sessions.drop_idle(Instant::now());
    }
}
