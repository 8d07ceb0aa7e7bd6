//! A stand-in until the re-encoder is there: passes everything unchanged.

use truename_common::layout::Authority;

pub enum Direction {
    Inbound,
    Outbound,
}
pub struct Names {
    pub canonical: Authority,
    pub alias: Option<Authority>,
}
#[derive(Default)]
pub struct Limits;
#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub frames: u64,
    pub names: u64,
}
pub struct Recoder {
    names: Names,
}

impl Recoder {
    pub fn new(_: Direction, names: Names, _: Limits) -> Self {
        Self { names }
    }
    pub fn push(&mut self, input: &[u8], output: &mut Vec<u8>) {
        output.extend_from_slice(input);
    }
    pub fn finish(&mut self, _: &mut Vec<u8>) {}
    pub fn alias(&self) -> Option<&Authority> {
        self.names.alias.as_ref()
    }
    pub fn set_alias(&mut self, alias: Authority) {
        self.names.alias = Some(alias);
    }
    pub fn counts(&self) -> Counts {
        Counts::default()
    }
}
