//! What is wanted and does not work: a sentence for people, a code for programs. Codes are stable.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// What kind of problem it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// An interface that is wanted could not be attached.
    InterfaceFailed,
    /// An interface that is named is not there.
    InterfaceGone,
    /// No interface is attached.
    NothingAttached,
    /// Interfaces are being attached.
    Attaching,
    /// Somebody else removed or replaced what is attached.
    Removed,
    /// A new configuration is not in force.
    ConfigurationRefused,
    /// A part of the configuration is left out.
    LeftOut,
    /// A task of the agent hangs.
    TaskHangs,
    /// Something failed and is tried again.
    TriedAgain,
    /// A source of the topology fails, hangs or says too much.
    Source,
    /// A role or a name that a service needs is not known.
    RoleUnknown,
    /// The table of RPC flows is full.
    FlowTableFull,
    /// The table of connections is full.
    ConnectionTableFull,
    /// No source port is free.
    PortsExhausted,
    /// The host does not forward.
    ForwardingOff,
    /// A target answers no connection.
    TargetSilent,
    /// An IPsec policy covers packets that are not encrypted.
    Unencrypted,
    /// The host has no route to targets.
    NoRoute,
    /// A target refuses all connections.
    TargetRefuses,
    /// Peers use a name that the list of aliases does not have.
    NotAdmitted,
    /// The canonical name that is configured is not the one that the node uses.
    WrongCanonical,
    /// Somebody took the RPC translator's program out of its table.
    RpcUnavailable,
    /// Peers use an alias longer than the canonical name, and there is no relay.
    AliasTooLong,
    /// An endpoint has no relay although it is wanted.
    RelayFailed,
    /// All connections of the relay are in use.
    RelayFull,
}

/// A problem as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of problem.
    pub code: Code,
    /// What does not work, and what to do.
    pub sentence: String,
}

/// A problem, with its time. Field names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemRow {
    /// What kind of problem.
    pub code: Code,
    /// What does not work, and what to do, as it was seen last.
    pub problem: String,
    /// When it was seen first.
    pub first_seen: Timestamp,
    /// When it was seen last.
    pub last_seen: Timestamp,
}

impl Finding {
    /// A problem.
    pub fn new(code: Code, sentence: impl Into<String>) -> Self {
        let sentence = sentence.into();
        Self { code, sentence }
    }

    /// Problems of one kind.
    pub fn all<S: Into<String>>(
        code: Code,
        sentences: impl IntoIterator<Item = S>,
    ) -> impl Iterator<Item = Self> {
        let sentences = sentences.into_iter();
        sentences.map(move |sentence| Self::new(code, sentence))
    }

    /// The sentence without counts and ages (`12`, `17s`, `3m`), which change while it stays the same.
    pub fn without_numbers(&self) -> String {
        let is_number = |word: &&str| {
            let digits = word.trim_end_matches(['s', 'm', 'h', 'd', ',', ':']);
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        let words = self.sentence.split(' ').filter(|word| !is_number(word));
        words.collect::<Vec<_>>().join(" ")
    }
}
