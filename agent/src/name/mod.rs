//! Names as other software writes them, and the grammar that they must have to be kept: the
//! parsers are the only way to make one of these values, so what is in a topology or a
//! configuration can be shown and put into a kernel table as it is.

mod authority;
mod id;
mod rpc;
mod session;
mod url;
mod web;

use std::net::IpAddr;

use truename_common::layout::SYSTEM_MAX;

pub use authority::{Authority, AuthorityError};
pub(crate) use authority::{parse_port, split};
pub use id::{ID_MAX, Id};
pub use rpc::{RpcAddress, Scheme};
pub use session::Session;
pub use url::Url;
pub use web::WebAddress;

/// How much of a refused text is shown, in characters.
const SHOWN_MAX: usize = 80;

/// Why a text from outside is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The `host:port` in it.
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    /// No actor path, or one of a transport that is not known.
    #[error("it must begin with akka or pekko, .tcp or .ssl.tcp, and ://")]
    Scheme,
    /// An actor path without a host: it is of use in its own process only.
    #[error("it has no host")]
    Local,
    /// The name of the actor system.
    #[error("the actor system must have 1 to {SYSTEM_MAX} letters, digits, hyphens or underscores")]
    System,
    /// No web address.
    #[error("it must begin with http:// or https://")]
    Web,
    /// A web address with more in its authority than host and port.
    #[error("user names are not used in addresses")]
    UserInfo,
    /// An identifier.
    #[error("an identifier has 1 to {ID_MAX} printable ASCII characters and no space")]
    Id,
    /// A session number.
    #[error("it is no UUID")]
    Session,
}

/// The address that a host is written as.
pub fn literal(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

/// A text from outside for a message: escaped and not longer than a line.
pub fn shown(text: &str) -> String {
    let mut out = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == SHOWN_MAX {
            out.push('…');
            break;
        }
        if matches!(character, ' '..='~') {
            out.push(character);
        } else {
            out.extend(character.escape_default());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_nothing_that_a_terminal_obeys() {
        assert_eq!(shown("a\u{1b}[2Jb\n\u{9b}"), "a\\u{1b}[2Jb\\n\\u{9b}");
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), SHOWN_MAX + 1);
    }
}
