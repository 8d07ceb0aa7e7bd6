//! Where facts come from: a file each for what is asked, watched or computed.

pub mod configured;
pub mod file;
pub mod flink;
pub mod ha;
pub mod learned;
pub mod management;
pub mod poll;
