//! The HTTP server: a request a connection, and few connections at a time.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::answer::{Subject, answer};

/// Clients at a time. Others wait in the kernel's queue.
const CLIENTS_MAX: usize = 64;
/// How long a client may take to send its request.
const HEAD: Duration = Duration::from_secs(2);
/// How long a client may take in all.
const ALL: Duration = Duration::from_secs(8);
/// How long nobody is accepted after that failed, as it does without free descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves clients of a listener until it is dropped.
pub async fn accept<S: Subject>(listener: &TcpListener, subject: &Arc<S>) -> Infallible {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut clients = JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            // Nobody closes it.
            std::future::pending().await
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let subject = Arc::clone(subject);
                clients.spawn(async move {
                    // One that takes too long is hung up on.
                    let _ = timeout(ALL, serve(stream, subject)).await;
                    drop(place);
                });
            }
            Err(error) => {
                log::debug!("Cannot accept a client for metrics and health: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn serve<S: Subject>(stream: TcpStream, subject: Arc<S>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let subject = Arc::clone(&subject);
        async move { Ok::<_, Infallible>(answer(&*subject, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        log::debug!("A client of metrics and health is gone: {error}");
    }
}
