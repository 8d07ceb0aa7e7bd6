//! How the XDP program is attached, and the word for it in the name of a pin.

use aya::programs::XdpMode;

/// How the program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// By the driver.
    Native,
    /// By the stack, after a socket buffer was made.
    Generic,
}

impl Mode {
    /// The word in pins, messages and `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    pub(super) const fn flags(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// Splits `<ifindex>-<mode>`.
pub(super) fn parse(name: &str) -> Option<(u32, Mode)> {
    let (ifindex, mode) = name.split_once('-')?;
    let modes = [Mode::Native, Mode::Generic];
    let mode = modes.into_iter().find(|known| known.name() == mode)?;
    Some((ifindex.parse().ok()?, mode))
}
