//! Endpoints that do not listen. The relay accepts a connection before it can know, so the kernel program refuses the
//! clients of such an endpoint, as the endpoint's host would.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::sleep;
use truename_common::layout::Socket;

use super::shared::{Context, socket};
use crate::netlink::listening;

/// How often is looked whether an endpoint listens again.
const PAUSE: Duration = Duration::from_millis(100);

/// Looks at endpoints for as long as the worker works.
pub(super) async fn watch(context: Arc<Context>) {
    let mut down = BTreeSet::new();
    loop {
        if down.is_empty() {
            context.suspects.added().await;
        }
        let mut suspects = context.suspects.take();
        suspects.append(&mut down);
        let listening = listening();
        for endpoint in suspects {
            let is_down = !listening.iter().any(|at| is_at(*at, endpoint));
            if let Err(error) = context.steering.lock().set_down(endpoint, is_down) {
                log::debug!("{error}");
            }
            if is_down {
                down.insert(endpoint);
            }
        }
        sleep(PAUSE).await;
    }
}

/// Whether a listening socket accepts connections to an endpoint.
fn is_at(listening: SocketAddr, endpoint: Socket) -> bool {
    listening.port() == endpoint.port
        && (listening.ip().is_unspecified() || socket(listening) == endpoint)
}
