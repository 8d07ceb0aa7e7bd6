//! What is answered to which path.

use std::{sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use tokio::time::timeout;

use super::metrics::{self, Format, Page};

/// How long a look into the tables is waited for.
const PATIENCE: Duration = Duration::from_secs(4);

/// What is asked about the agent.
pub trait Subject: Send + Sync + 'static {
    /// The tasks that hang, a sentence each. Waits for nothing.
    fn hanging(&self) -> Vec<String>;

    /// Whether programs have been attached and tables loaded. Waits for nothing.
    fn has_started(&self) -> bool;

    /// What it is like now.
    fn page(&self) -> impl Future<Output = Result<Arc<Page>, String>> + Send;
}

/// Answers a request.
pub async fn answer<S: Subject, B>(subject: &S, request: &Request<B>) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    match request.uri().path() {
        "/livez" => live(subject),
        "/startupz" if subject.has_started() => text(StatusCode::OK, "ok\n"),
        "/startupz" => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        "/readyz" => ready(subject).await,
        "/metrics" => scraped(subject, request.headers()).await,
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /livez, /startupz, /readyz and /metrics\n",
        ),
    }
}

/// Alive is an agent none of whose tasks hangs: restarting another one helps nobody.
fn live(subject: &impl Subject) -> Response<Full<Bytes>> {
    match subject.hanging() {
        hanging if hanging.is_empty() => text(StatusCode::OK, "ok\n"),
        hanging => text(StatusCode::SERVICE_UNAVAILABLE, lines(&hanging)),
    }
}

/// Ready is an agent that translates, if not everything: a degraded one is no reason to stop a rollout. The problems
/// are in the answer.
async fn ready(subject: &impl Subject) -> Response<Full<Bytes>> {
    let status = match page(subject).await {
        Ok(page) => page.status.clone(),
        Err(why) => return text(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    };
    let translates = status.interfaces.iter().any(|row| row.program.is_some());
    let code = match translates && status.hanging.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    match status.problems.as_slice() {
        [] => text(code, "ok\n"),
        problems => text(code, "degraded\n".to_owned() + &lines(problems)),
    }
}

async fn scraped(subject: &impl Subject, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let accepted = headers.get_all(ACCEPT).iter();
    let format = match accepted.into_iter().any(|value| {
        let value = value.to_str().unwrap_or_default();
        value.contains("application/openmetrics-text")
    }) {
        true => Format::OpenMetrics,
        false => Format::Prometheus,
    };
    let written = match page(subject).await {
        Ok(page) => metrics::write(&page, format).map_err(|error| error.to_string()),
        Err(why) => Err(why),
    };
    match written {
        Ok(written) => {
            let mut answer = text(StatusCode::OK, written);
            let kind = HeaderValue::from_static(format.content_type());
            answer.headers_mut().insert(CONTENT_TYPE, kind);
            answer
        }
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    }
}

async fn page(subject: &impl Subject) -> Result<Arc<Page>, String> {
    let slow = |_| Err(format!("no answer within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, subject.page()).await.unwrap_or_else(slow)
}

fn lines(sentences: &[String]) -> String {
    sentences
        .iter()
        .map(|sentence| format!("{sentence}\n"))
        .collect()
}

fn text(code: StatusCode, text: impl Into<String>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(text.into())));
    *answer.status_mut() = code;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
