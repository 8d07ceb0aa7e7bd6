//! Leader records in Kubernetes ConfigMaps.
//!
//! The records are read in every build; following them needs the feature `kubernetes`.

#[cfg_attr(
    not(any(feature = "kubernetes", test)),
    expect(
        dead_code,
        reason = "only the source reads records, and it is not built"
    )
)]
mod records;
#[cfg(feature = "kubernetes")]
mod watch;

pub use crate::config::ha::kubernetes::{Place, PlaceError};
#[cfg(feature = "kubernetes")]
pub use watch::Kubernetes;
