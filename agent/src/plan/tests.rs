//! The plan of endpoints.

use std::path::Path;

use super::*;
use crate::config::{File, Flags, Listen};

fn config(text: &str) -> Config {
    Config::new(
        File::parse(Path::new("t.toml"), text).unwrap(),
        Flags::default(),
    )
    .unwrap()
}

fn socket(text: &str) -> Socket {
    text.parse::<Listen>().unwrap().to_socket()
}

const TWO: &str = r#"
    [[endpoint]]
    name = "jobmanager"
    protocol = "pekko"
    listen = "10.0.0.1:6123"
    canonical = "jobmanager:6123"
    aliases = ["localhost:6123"]
    [[endpoint]]
    name = "taskmanager"
    protocol = "pekko"
    listen = "*:6122"
"#;

#[test]
fn compiles_every_table() {
    let tables = plan(
        &config(TWO),
        &Facts::default(),
        &BTreeMap::new(),
        &Held::default(),
    );
    assert_eq!(tables.ports, [(6122, 1), (6123, 1)].into());
    assert_eq!(tables.endpoints[&socket("10.0.0.1:6123")].id, 0);
    assert_eq!(
        tables.endpoints[&socket("10.0.0.1:6123")].policy,
        Policy::Listed as u8
    );
    assert_eq!(tables.endpoints[&socket("*:6122")].id, 1);
    assert_eq!(
        tables.endpoints[&socket("*:6122")].policy,
        Policy::Any as u8
    );
    assert_eq!(tables.names.len(), 1);
    assert_eq!(
        tables.names[&socket("10.0.0.1:6123")].canonical.as_bytes(),
        b"jobmanager:6123"
    );
    let (id, alias) = tables.listed.first().unwrap();
    assert_eq!((*id, alias.as_bytes()), (0, &b"localhost:6123"[..]));
}

#[test]
fn endpoints_keep_their_numbers() {
    let numbers = [(socket("*:6122"), 7), (socket("*:9999"), 8)].into();
    let tables = plan(&config(TWO), &Facts::default(), &numbers, &Held::default());
    assert_eq!(tables.endpoints[&socket("*:6122")].id, 7);
    assert_eq!(tables.endpoints[&socket("10.0.0.1:6123")].id, 9);
    assert_eq!(tables.listed.first().unwrap().0, 9);
}
