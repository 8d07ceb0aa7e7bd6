//! The pinned tables, behind the agent's back.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, MapError};
use truename_common::layout::VERSION;

use crate::truename::Truename;

/// Opens a table of an installation.
///
/// # Errors
/// It is not pinned, or of another type.
pub fn table<T: TryFrom<Map, Error = MapError>>(truename: &Truename, name: &str) -> Result<T> {
    let version = PathBuf::from(format!("v{VERSION}"));
    let path = truename.bpffs().join(version).join("maps").join(name);
    let opened = || T::try_from(Map::from_map_data(MapData::from_pin(&path)?)?);
    opened().with_context(|| format!("open {}", path.display()))
}
