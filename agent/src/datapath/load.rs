//! Loading the kernel program over the pinned tables.

use std::fs;

use aya::{Ebpf, EbpfLoader, programs::SchedClassifier};
use truename_common::layout::map;

use super::{
    PROGRAMS, Pins,
    error::DatapathError,
    pins::remove_file,
    tables::{PINNED, check_pinned},
};
use crate::config::Datapath;

/// The kernel program that was built with this agent.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/truename"));

/// The loaded object: tables are pinned, programs are not yet in the kernel.
#[derive(Debug)]
pub struct Object {
    pub(super) ebpf: Ebpf,
}

impl Object {
    /// Opens the pinned tables and makes and pins those that are missing.
    ///
    /// # Errors
    /// When pinned tables do not fit, or the kernel refuses new ones.
    pub fn open(pins: &Pins, sizes: &Datapath) -> Result<Self, DatapathError> {
        if OBJECT.is_empty() {
            return Err(DatapathError::NoObject);
        }
        check_pinned(pins)?;
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(map::RPC_FLOWS, sizes.max_rpc_flows);
        loader.map_max_entries(map::CONNTRACK, sizes.max_flows);
        loader.map_max_entries(map::MOVED, sizes.max_flows);
        for name in PINNED {
            loader.map_pin_path(name, pins.map(name));
        }
        let ebpf = loader.load(OBJECT)?;
        for name in PINNED {
            if ebpf.map(name).is_none() {
                return Err(DatapathError::Missing {
                    kind: "table",
                    name,
                });
            }
        }
        Ok(Self { ebpf })
    }

    /// Has the kernel verify the programs, and pins them in place of older ones.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub(super) fn load(&mut self, pins: &Pins) -> Result<(), DatapathError> {
        for name in PROGRAMS {
            let program = self.program(name)?;
            let refused = |source| DatapathError::Program {
                name,
                source: Box::new(source),
            };
            program.load().map_err(refused)?;
            // A pin cannot be overwritten, but replaced.
            let path = pins.program(name);
            let new = pins.program(&format!("{name}-new"));
            remove_file(&new)?;
            program.pin(&new).map_err(|source| DatapathError::Pin {
                path: new.clone(),
                source,
            })?;
            fs::rename(&new, &path).map_err(DatapathError::pins("replace", &path))?;
        }
        Ok(())
    }

    pub(super) fn program(
        &mut self,
        name: &'static str,
    ) -> Result<&mut SchedClassifier, DatapathError> {
        let program = self.ebpf.program_mut(name);
        let missing = || DatapathError::Missing {
            kind: "program",
            name,
        };
        program
            .ok_or_else(missing)?
            .try_into()
            .map_err(|_| missing())
    }
}
