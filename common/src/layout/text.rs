use super::plain;

/// Longest authority (`host:port`) that is translated: a DNS name of 249 bytes, colon, port.
pub const AUTHORITY_MAX: usize = 255;
/// Longest actor-system name that is translated: a DNS label, as the local form puts it into the
/// host position of a URI.
pub const SYSTEM_MAX: usize = 63;

/// A short string in a table: `len` bytes of `bytes`, whose size is a power of two.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text<const N: usize> {
    pub bytes: [u8; N],
    pub len: u16,
}

/// `host:port` as written in a name.
pub type Authority = Text<256>;
/// The name of an actor system.
pub type System = Text<64>;
/// A text around an authority: the longest is the pattern, `://<system>@<authority>/`.
pub type LongText = Text<512>;

plain!(LongText = 514, Authority = 258, System = 66);

impl<const N: usize> Text<N> {
    pub const EMPTY: Self = Self {
        bytes: [0; N],
        len: 0,
    };

    /// The text, or `None` if it does not fit.
    pub fn new(text: &[u8]) -> Option<Self> {
        if text.len() >= N {
            return None;
        }
        let mut out = Self::EMPTY;
        for (to, from) in out.bytes.iter_mut().zip(text) {
            *to = *from;
        }
        out.len = text.len() as u16;
        Some(out)
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes in use.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// The mask that bounds an index. A mask is a bound that the verifier cannot lose.
    const MASK: usize = {
        assert!(N.is_power_of_two());
        N - 1
    };

    /// Byte `index`, modulo `N`.
    #[inline(always)]
    pub fn at(&self, index: usize) -> u8 {
        self.bytes[index & Self::MASK]
    }

    /// Sets byte `index`, modulo `N`.
    #[inline(always)]
    pub fn set(&mut self, index: usize, byte: u8) {
        self.bytes[index & Self::MASK] = byte;
    }

    /// Appends one byte; does nothing when full. The last byte of the array stays free.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) {
        let at = usize::from(self.len);
        if at < N - 1 {
            self.set(at, byte);
            self.len = (at + 1) as u16;
        }
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

#[cfg(feature = "user")]
impl<const N: usize> core::fmt::Display for Text<N> {
    /// Escapes everything that is not printable ASCII: the text came from the network.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}
