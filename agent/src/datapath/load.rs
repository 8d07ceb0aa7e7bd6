//! Loading the kernel program over the pinned tables.

use std::{collections::BTreeMap, fs, io, os::fd::AsFd as _, path::PathBuf};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapError, ProgramArray},
    programs::{Program, SchedClassifier, SkLookup, Xdp},
};
use truename_common::layout::map;

use super::{
    CHAIN, Drift, PROGRAM_RPC, PROGRAM_STEER, PROGRAM_XDP, PROGRAMS, Pins,
    bpffs::remove_file,
    error::DatapathError,
    sys,
    tables::{PINNED, check_pinned},
};
use crate::config::Datapath;

/// The kernel program that was built with this agent.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/truename"));

/// How many pages of marks there can be: four a flow, which is 126,976 bytes of stream in flight. Few flows can have more
/// at a time; 8192 pages are four of them with 30 MiB each way.
const fn pages(flows: u32) -> u32 {
    let pages = 4 * flows;
    if pages > 8192 { pages } else { 8192 }
}

/// How many entries a table has, if that is configured.
pub(super) fn configured_entries(name: &str, sizes: &Datapath) -> Option<u32> {
    match name {
        map::RPC_FLOWS => Some(sizes.max_rpc_flows),
        map::PAGES => Some(pages(sizes.max_rpc_flows)),
        map::CONNTRACK | map::MOVED => Some(sizes.max_flows),
        _ => None,
    }
}

/// The loaded object: tables are pinned, programs are not yet in the kernel.
#[derive(Debug)]
pub struct Object {
    pub(super) ebpf: Ebpf,
    /// The pin of this load's table of programs.
    chain: Option<PathBuf>,
    /// The pins of tables and programs, with the number of what is pinned.
    pinned: BTreeMap<PathBuf, (Kind, u32)>,
}

/// What a pin is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Table(&'static str),
    Program(&'static str),
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
        for name in PINNED {
            if let Some(entries) = configured_entries(name, sizes) {
                loader.map_max_entries(name, entries);
            }
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
        Ok(Self {
            ebpf,
            chain: None,
            pinned: BTreeMap::new(),
        })
    }

    /// Has the kernel verify the programs, and pins them in place of older ones.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub(super) fn load(&mut self, pins: &Pins) -> Result<(), DatapathError> {
        self.load_chain(pins)?;
        for name in PROGRAMS {
            let program = self.program(name)?;
            program.load().map_err(DatapathError::program(name))?;
            self.pin(pins, name)?;
        }
        self.steer()?
            .load()
            .map_err(DatapathError::program(PROGRAM_STEER))?;
        self.pin(pins, PROGRAM_STEER)?;
        let tables = PINNED.map(|name| (pins.map(name), Kind::Table(name)));
        let chain = self.chain.clone().map(|path| (path, Kind::Table(CHAIN)));
        let names = PROGRAMS.into_iter().chain([PROGRAM_STEER]);
        let programs = names.map(|name| (pins.program(name), Kind::Program(name)));
        for (path, kind) in tables.into_iter().chain(chain).chain(programs) {
            let id = sys::object_id(&path).map_err(DatapathError::pins("read", &path))?;
            self.pinned.insert(path, (kind, id));
        }
        // The program that used them goes on with them until the new one is attached.
        for path in pins.unused_maps() {
            remove_file(&path)?;
        }
        Ok(())
    }

    /// Pins a loaded program in place of an older one. A pin cannot be overwritten, but replaced.
    fn pin(&mut self, pins: &Pins, name: &'static str) -> Result<(), DatapathError> {
        let path = pins.program(name);
        let new = pins.program(&format!("{name}-new"));
        remove_file(&new)?;
        let pinned = self.any(name)?.pin(&new);
        pinned.map_err(|source| DatapathError::Pin {
            path: new.clone(),
            source,
        })?;
        fs::rename(&new, &path).map_err(DatapathError::pins("replace", &path))
    }

    /// The pins that somebody else removed or replaced.
    pub(super) fn lost_pins(&self) -> Vec<Drift> {
        let lost = self.pinned.iter().filter(|(path, (_, id))| {
            // Only what is certain: without a free descriptor, for example, nothing can be looked at.
            match sys::object_id(path) {
                Ok(found) => found != *id,
                Err(error) => matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidData
                ),
            }
        });
        lost.map(|(path, _)| Drift::Pin(path.clone())).collect()
    }

    /// Pins again what [`Self::lost_pins`] finds.
    pub(super) fn pin_again(&mut self) -> Result<(), DatapathError> {
        for lost in self.lost_pins() {
            let Drift::Pin(path) = lost else { continue };
            let Some((kind, _)) = self.pinned.get(&path) else {
                continue;
            };
            remove_file(&path)?;
            let failed = |source| DatapathError::Pin {
                path: path.clone(),
                source,
            };
            match *kind {
                Kind::Table(name) => {
                    if let Some(map) = self.ebpf.map(name) {
                        map.pin(&path).map_err(failed)?;
                    }
                }
                Kind::Program(name) => self.any(name)?.pin(&path).map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Whether the table of programs that others go on with is as it was filled.
    pub(super) fn has_chain(&self) -> Result<bool, DatapathError> {
        let Some(Map::ProgramArray(table)) = self.ebpf.map(CHAIN) else {
            return Err(DatapathError::Missing {
                kind: "table",
                name: CHAIN,
            });
        };
        let found = sys::program_at(table.fd().as_fd(), 0);
        let found =
            found.map_err(|error| DatapathError::table("read", CHAIN)(MapError::IoError(error)))?;
        Ok(found == Some(self.id(PROGRAM_RPC)?))
    }

    /// Fills it.
    pub(super) fn fill_chain(&mut self) -> Result<(), DatapathError> {
        let program = self.program(PROGRAM_RPC)?;
        let program = program.fd().map_err(DatapathError::program(PROGRAM_RPC))?;
        let program = program
            .try_clone()
            .map_err(|error| DatapathError::program(PROGRAM_RPC)(error.into()))?;
        let missing = || DatapathError::Missing {
            kind: "table",
            name: CHAIN,
        };
        let map = self.ebpf.map_mut(CHAIN).ok_or_else(missing)?;
        let mut chain = ProgramArray::try_from(map).map_err(|_| missing())?;
        chain
            .set(0, &program, 0)
            .map_err(DatapathError::table("write", CHAIN))
    }

    /// The number of a loaded program.
    pub(super) fn id(&self, name: &'static str) -> Result<u32, DatapathError> {
        let missing = || DatapathError::Missing {
            kind: "program",
            name,
        };
        let program = self.ebpf.program(name).ok_or_else(missing)?;
        let info = program.info().map_err(DatapathError::program(name))?;
        Ok(info.id())
    }

    /// How often a loaded program ran: its name, its number, runs and nanoseconds.
    pub(super) fn runs(
        &self,
        name: &'static str,
    ) -> Result<(&'static str, u32, u64, u64), DatapathError> {
        let missing = || DatapathError::Missing {
            kind: "program",
            name,
        };
        let program = self.ebpf.program(name).ok_or_else(missing)?;
        let info = program.info().map_err(DatapathError::program(name))?;
        let time = u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX);
        Ok((name, info.id(), info.run_count(), time))
    }

    /// The number of the XDP program, if it is loaded.
    pub(super) fn xdp_id(&self) -> Option<u32> {
        self.id(PROGRAM_XDP).ok()
    }

    /// Fills and pins the table of programs that others go on with.
    ///
    /// Every load has its own: one that was shared would let programs of two builds go on with each
    /// other. It is pinned, because the kernel empties such a table when no process and no pin has it.
    fn load_chain(&mut self, pins: &Pins) -> Result<(), DatapathError> {
        let refused = DatapathError::program(PROGRAM_RPC);
        let program = self.program(PROGRAM_RPC)?;
        program.load().map_err(refused)?;
        let missing = || DatapathError::Missing {
            kind: "table",
            name: CHAIN,
        };
        let map = self.ebpf.map_mut(CHAIN).ok_or_else(missing)?;
        let path = pins.new_chain()?;
        map.pin(&path).map_err(|source| DatapathError::Pin {
            path: path.clone(),
            source,
        })?;
        self.fill_chain()?;
        self.chain = Some(path);
        Ok(())
    }

    /// Removes the tables of programs of earlier loads. To be called when no link has their programs.
    pub(super) fn remove_old_chains(&self, pins: &Pins) -> Result<(), DatapathError> {
        for path in pins.chains()? {
            if self.chain.as_ref() != Some(&path) {
                remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// The XDP program, which is loaded when it is needed first.
    pub(super) fn xdp(&mut self) -> Result<&mut Xdp, DatapathError> {
        let missing = || DatapathError::Missing {
            kind: "program",
            name: PROGRAM_XDP,
        };
        let program = self.ebpf.program_mut(PROGRAM_XDP).ok_or_else(missing)?;
        let program: &mut Xdp = program.try_into().map_err(|_| missing())?;
        if program.fd().is_err() {
            program
                .load()
                .map_err(DatapathError::program(PROGRAM_XDP))?;
        }
        Ok(program)
    }

    pub(super) fn program(
        &mut self,
        name: &'static str,
    ) -> Result<&mut SchedClassifier, DatapathError> {
        let program = self.any(name)?.try_into();
        program.map_err(|_| missing(name))
    }

    fn steer(&mut self) -> Result<&mut SkLookup, DatapathError> {
        let program = self.any(PROGRAM_STEER)?.try_into();
        program.map_err(|_| missing(PROGRAM_STEER))
    }

    fn any(&mut self, name: &'static str) -> Result<&mut Program, DatapathError> {
        let program = self.ebpf.program_mut(name);
        program.ok_or_else(|| missing(name))
    }
}

const fn missing(name: &'static str) -> DatapathError {
    DatapathError::Missing {
        kind: "program",
        name,
    }
}
