//! Dependencies are what deny.toml allows. CI has cargo-deny read the same file; it fetches a list of advisories, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    process::Command,
};

use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};

/// The packages that cargo builds for this platform with all features, by name and version.
fn packages(repository: &Path) -> BTreeMap<String, Value> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--all-features",
        ])
        .args([
            "--filter-platform",
            &format!("{}-unknown-linux-gnu", env::consts::ARCH),
        ])
        .current_dir(repository);
    let output = cargo.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let Value::Array(packages) = metadata["packages"].take() else {
        panic!("cargo does not list packages");
    };
    packages
        .into_iter()
        .map(|package| {
            let text = |field: &str| package[field].as_str().unwrap_or_default().to_owned();
            (format!("{} {}", text("name"), text("version")), package)
        })
        .collect()
}

#[test]
fn dependencies_are_what_deny_toml_allows() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let deny = fs::read_to_string(repository.join("deny.toml")).unwrap();
    let deny: toml::Table = toml::from_str(&deny).unwrap();
    let list = |section: &str, key: &str| deny[section][key].as_array().unwrap();
    let allowed: Vec<Licensee> = list("licenses", "allow")
        .iter()
        .map(|name| Licensee::parse(name.as_str().unwrap()).unwrap())
        .collect();
    let banned: BTreeMap<&str, &str> = list("bans", "deny")
        .iter()
        .map(|ban| {
            (
                ban["crate"].as_str().unwrap(),
                ban["reason"].as_str().unwrap(),
            )
        })
        .collect();
    for key in ["unknown-registry", "unknown-git"] {
        assert_eq!(deny["sources"][key].as_str(), Some("deny"));
    }

    let mut wrong = Vec::new();
    let mut sources = BTreeSet::new();
    for (package, fields) in packages(&repository) {
        let name = fields["name"].as_str().unwrap();
        if let Some(reason) = banned.get(name) {
            wrong.push(format!("{package} is banned: {reason}"));
        }
        // Those of this repository have none.
        sources.extend(fields["source"].as_str().map(str::to_owned));
        let license = fields["license"].as_str().unwrap_or_default();
        match Expression::parse_mode(license, ParseMode::LAX) {
            Ok(expression) => {
                let is_good = expression
                    .evaluate(|license| allowed.iter().any(|ours| ours.satisfies(license)));
                if !is_good {
                    wrong.push(format!("{package} has the licence {license}"));
                }
            }
            Err(error) => wrong.push(format!("{package} has no licence: {error}")),
        }
    }
    let is_one_registry = sources.len() == 1 && sources.iter().all(|s| s.starts_with("registry+"));
    if !is_one_registry {
        wrong.push(format!(
            "dependencies come from {sources:?}, and not from one registry"
        ));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
