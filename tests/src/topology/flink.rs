//! What a standalone Flink answers by REST, as far as a topology is read from it.

use serde_json::json;

use super::Reply;

/// The answer of a JobManager that is at this host, to a question for `path`. Its workers are `tm-1` and so
/// on.
pub fn flink(jobmanager: &str, workers: usize, path: &str) -> Reply {
    let worker = |number| {
        json!({
            "id": format!("tm-{number}"),
            "path": format!("pekko.tcp://flink@tm-{number}:6122/user/rpc/taskmanager_0"),
            "dataPort": 7,
        })
    };
    let answer = match path {
        "/jobmanager/config" => json!([{"key": "jobmanager.rpc.address", "value": jobmanager}]),
        "/overview" => json!({
            "taskmanagers": workers,
            "slots-total": 2 * workers,
            "flink-version": "2.3.0",
        }),
        "/taskmanagers" => {
            json!({"taskmanagers": (1..=workers).map(worker).collect::<Vec<_>>()})
        }
        _ => return Reply::Status(404, path.to_owned()),
    };
    Reply::Json(answer.to_string())
}
